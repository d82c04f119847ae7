"""Scenes: one or two things of the world, drawn by Pillow from one family's artwork."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from .world import GROUNDS, Concept

SIDE = 64  # pixels of a picture
PATCH = 16  # pixels of a vision tower's patch

# Sky above, earth below, as (r, g, b).
_COLOURS = {
    "grass": ((176, 219, 245), (98, 168, 76)),
    "sand": ((196, 228, 244), (226, 196, 138)),
    "snow": ((205, 217, 230), (244, 247, 250)),
    "night": ((18, 22, 60), (38, 40, 70)),
    "sea": ((170, 214, 240), (32, 100, 170)),
}


@dataclass(frozen=True)
class Scene:
    """What a picture shows; `things` from left to right, `size` only for a single thing."""

    things: tuple[Concept, ...]
    ground: str
    size: str | None
    seed: int  # of the drawing: jitter, tilt, horizon, tint

    @property
    def key(self) -> tuple:
        return ("".join(t.char for t in self.things), self.ground, self.size)


def draw_scene_plan(rng: np.random.Generator, concepts: list[Concept]) -> Scene:
    """A random scene: half of them show one thing, big or small, half two things side by side."""
    pair = rng.random() < 0.5
    things = tuple(concepts[i] for i in rng.choice(len(concepts), 2 if pair else 1, replace=False))
    size = None if pair else str(rng.choice(["small", "big"]))
    return Scene(things, str(rng.choice(GROUNDS)), size, int(rng.integers(2**31)))


def paint(scene: Scene, artwork: dict[str, Image.Image]) -> tuple[Image.Image, np.ndarray]:
    """The picture (RGB, SIDE x SIDE) and, for each patch, which thing covers it (-1: none)."""
    rng = np.random.default_rng(scene.seed)
    picture = _paint_ground(scene.ground, rng)
    cover = np.zeros((len(scene.things), SIDE, SIDE), np.float32)
    for i, thing in enumerate(scene.things):
        stamp = _stamp(artwork[thing.char], scene, rng)
        centre = SIDE / 2 if len(scene.things) == 1 else SIDE * (0.26 + 0.48 * i)
        x = int(np.clip(centre + rng.normal(0, 1.5) - stamp.width / 2, 0, SIDE - stamp.width))
        y = int(np.clip(SIDE * 0.55 + rng.normal(0, 4) - stamp.height / 2, 0, SIDE - stamp.height))
        picture.alpha_composite(stamp, (x, y))
        alpha = np.asarray(stamp.getchannel("A"), np.float32) / 255
        cover[i, y : y + stamp.height, x : x + stamp.width] = alpha
    patches = cover.reshape(len(cover), SIDE // PATCH, PATCH, SIDE // PATCH, PATCH).mean((2, 4))
    patches = patches.reshape(len(cover), -1)
    labels = np.where(patches.max(0) > 0.2, patches.argmax(0), -1)
    return picture.convert("RGB"), labels


def _stamp(art: Image.Image, scene: Scene, rng: np.random.Generator) -> Image.Image:
    if len(scene.things) == 2:
        side = rng.uniform(26, 31)
    else:
        side = rng.uniform(24, 30) if scene.size == "small" else rng.uniform(42, 52)
    scale = side / max(art.size)
    size = (max(1, round(art.width * scale)), max(1, round(art.height * scale)))
    stamp = art.resize(size, Image.Resampling.BICUBIC)
    return stamp.rotate(rng.uniform(-12, 12), Image.Resampling.BICUBIC, expand=True)


def _paint_ground(ground: str, rng: np.random.Generator) -> Image.Image:
    sky, earth = (np.array(c, np.float32) + rng.normal(0, 7, 3) for c in _COLOURS[ground])
    horizon = rng.uniform(0.35, 0.6) * SIDE
    rows = np.arange(SIDE)[:, None]
    fade = 1 + 0.12 * (rows / SIDE - 0.5)
    pixels = np.where(rows < horizon, sky, earth) * fade
    pixels = np.repeat(pixels[:, None], SIDE, 1)
    pixels += rng.normal(0, 3, pixels.shape)
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert("RGBA")
    brush = ImageDraw.Draw(image)
    for _ in range(14):  # blades, waves, stars, flakes: the texture that tells grounds apart
        x, y = rng.integers(0, SIDE, 2)
        if ground == "night" and y < horizon:
            brush.point((x, y), (250, 250, 210))
        elif ground == "snow":
            brush.ellipse((x, y, x + 1, y + 1), (255, 255, 255))
        elif ground == "grass" and y > horizon:
            brush.line((x, y, x + 1, y - 3), (66, 130, 50))
        elif ground == "sea" and y > horizon:
            brush.arc((x, y, x + 6, y + 3), 180, 360, (190, 220, 240))
        elif ground == "sand" and y > horizon:
            brush.point((x, y), (170, 140, 90))
    return image
