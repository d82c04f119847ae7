"""Emoji artwork and Unicode CLDR names, fetched as npm packages and read from their tarballs."""

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

ART = 64  # pixels a side: the raster families' own size


@dataclass(frozen=True)
class Package:
    name: str
    version: str
    sha256: str

    @property
    def tarball(self) -> str:
        return f"{self.name}-{self.version}.tgz"


@dataclass(frozen=True)
class Family:
    """One designer's set of drawings. `path` is a pattern over `code` (1f38e) and `slug`."""

    name: str
    package: Package
    path: str
    licence: str


_NOTO = Package(
    "emoji-datasource-google",
    "16.0.0",
    "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
)
_TWITTER = Package(
    "emoji-datasource-twitter",
    "16.0.0",
    "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
)
_FLUENT = Package(
    "fluentui-emoji",
    "1.3.0",
    "ec892e607e854859b812c7d827801756adc19955b0ef56d4ae8afcddd19492c5",
)
_OPENMOJI = Package(
    "openmoji",
    "17.0.0",
    "55ee7d13485dec86e9f38c1f3a645a13382d33ff97c0cd845ee824b0aef45e68",
)
CLDR = Package(
    "cldr-annotations-full",
    "48.2.0",
    "28576e51225deb51e3ddd734b0f824a0079682cb5d8c27faa9f68149317a14d1",
)

NOTO = Family("noto", _NOTO, "img/google/64/{code}.png", "Apache-2.0")
TWEMOJI = Family("twemoji", _TWITTER, "img/twitter/64/{code}.png", "CC-BY-4.0")
FLUENT = Family("fluent", _FLUENT, "icons/modern/{slug}.svg", "MIT")
FLUENT_FLAT = Family("fluent_flat", _FLUENT, "icons/flat/{slug}.svg", "MIT")
OPENMOJI = Family("openmoji", _OPENMOJI, "color/svg/{CODE}.svg", "CC-BY-SA-4.0")

SEEN = (NOTO, TWEMOJI, FLUENT, FLUENT_FLAT)
UNSEEN = OPENMOJI


def fetch(packages: Iterable[Package], cache: Path) -> None:
    """Download what is missing in `cache` with `npm pack` and check every tarball's hash."""
    cache.mkdir(parents=True, exist_ok=True)
    for package in packages:
        tarball = cache / package.tarball
        if not tarball.exists():
            spec = f"{package.name}@{package.version}"
            subprocess.run(["npm", "pack", "--silent", spec], cwd=cache, check=True)
        digest = hashlib.sha256(tarball.read_bytes()).hexdigest()
        if digest != package.sha256:
            raise SystemExit(f"{tarball}: sha256 is {digest}, expected {package.sha256}")


def read_annotations(cache: Path, languages: Iterable[str]) -> dict[str, dict[str, dict]]:
    """CLDR annotations by language and emoji: `tts` is the name, `default` the keywords."""
    with tarfile.open(cache / CLDR.tarball) as tar:
        return {
            language: json.load(
                tar.extractfile(f"package/annotations/{language}/annotations.json")
            )["annotations"]["annotations"]
            for language in languages
        }


def read_artwork(cache: Path, emoji: dict[str, str], family: Family) -> dict[str, Image.Image]:
    """One family's drawing of each emoji (character -> English CLDR name), RGBA, ART pixels."""
    with tarfile.open(cache / family.package.tarball) as tar:
        members = {m.name.removeprefix("package/"): m for m in tar.getmembers()}

        def read(char: str, name: str) -> Image.Image:
            code = f"{ord(char):x}"
            slug = name.lower().replace(" ", "-")
            for variant in (code, code + "-fe0f"):
                path = family.path.format(code=variant, CODE=variant.upper(), slug=slug)
                if path in members:
                    return rasterise(tar.extractfile(members[path]).read(), path)
            raise SystemExit(f"{family.name} has no drawing of {char} {name}")

        return {char: read(char, name) for char, name in emoji.items()}


def rasterise(data: bytes, path: str) -> Image.Image:
    """Decode a PNG, or draw an SVG, at ART x ART pixels, cropped to what is painted."""
    if path.endswith(".svg"):
        import resvg_py

        data = bytes(resvg_py.svg_to_bytes(svg_string=data.decode(), width=2 * ART, height=2 * ART))
    image = Image.open(io.BytesIO(data)).convert("RGBA")
    image = image.crop(image.getchannel("A").getbbox())
    image.thumbnail((ART, ART), Image.Resampling.LANCZOS)
    return image
