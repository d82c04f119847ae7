"""The rows of the embedded tasks: scenes shared by all picture tasks, facts, readings and sums."""

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from PIL import Image

from .artwork import SEEN, UNSEEN
from .corpus import draw_sum
from .language import PHRASES, captions, notes, questions
from .scenes import Scene, draw_scene_plan, paint
from .world import GROUNDS, LANGUAGES, Concept

SIZES = {"search": 240, "holdout": 480}
UNSEEN_ROWS = 240  # the first of the holdout's scenes, drawn by a designer whom no model saw
OPTIONS = 4

Rows = list[dict]
Artwork = dict[str, dict[str, Image.Image]]


@dataclass(frozen=True)
class Held:
    """Everything that is kept out of training."""

    scenes: dict[str, list[Scene]]
    tables: dict[str, dict[str, Rows]]  # table -> split -> rows
    keys: frozenset = field(default_factory=frozenset)  # scene keys
    texts: frozenset = field(default_factory=frozenset)  # word problems


def draw_held(concepts: list[Concept], artwork: Artwork, rng: np.random.Generator) -> Held:
    """Draw every split of every table; no two splits share a scene, a fact or a problem."""
    plans = _distinct(lambda: draw_scene_plan(rng, concepts), lambda s: s.key, sum(SIZES.values()))
    scenes = dict(_split(plans))
    scenes["unseen_artwork"] = scenes["holdout"][:UNSEEN_ROWS]
    seen = [family.name for family in SEEN]
    tables = {
        "scenes": {
            split: [
                _scene_row(
                    scene, UNSEEN.name if "unseen" in split else str(rng.choice(seen)), artwork, rng
                )
                for scene in plan
            ]
            for split, plan in scenes.items()
        },
        "culture_ja": draw_facts([c for c in concepts if c.japanese], "ja", rng),
        "reading_en": dict(_split(_draw_readings(concepts, rng))),
    }
    for language in ("en", "ja"):
        tables[f"arithmetic_{language}"] = dict(_split(_draw_sums(concepts, language, rng)))
    sums = [tables[f"arithmetic_{language}"][split] for language in ("en", "ja") for split in SIZES]
    problems = frozenset(row["question"] for part in sums for row in part)
    return Held(scenes, tables, frozenset(s.key for s in plans), problems)


def _scene_row(scene: Scene, family: str, artwork: Artwork, rng: np.random.Generator) -> dict:
    picture, _ = paint(scene, artwork[family])
    things = "".join(thing.char for thing in scene.things)
    row = {"image": encode(picture), "family": family, "things": things}
    kinds = questions(scene, "ja").keys() & questions(scene, "th").keys()
    weights = np.array([0.35 if k in ("where", "related") else 1.0 for k in sorted(kinds)])
    kind = str(rng.choice(sorted(kinds), p=weights / weights.sum()))
    for language in LANGUAGES:
        asked = questions(scene, language)
        question = asked.get(kind) or asked["where"]
        row[f"captions_{language}"] = list(captions(scene, language))
        row[f"question_{language}"] = question.text
        row[f"answers_{language}"] = list(question.answers)
    return row


def encode(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=92, subsampling=0)
    return buffer.getvalue()


def draw_facts(concepts: list[Concept], language: str, rng: np.random.Generator) -> dict[str, Rows]:
    """Which keyword goes with a thing, among those of others; a fact is in one split only."""
    facts = [
        (concept, keyword)
        for concept in concepts
        for keyword in concept.keywords[language]
        if keyword not in concept.names[language] and concept.names[language] not in keyword
    ]
    facts = [facts[i] for i in rng.permutation(len(facts))]
    cut = len(facts) * SIZES["search"] // sum(SIZES.values())
    patterns = PHRASES[language].facts

    def row(concept: Concept, keyword: str) -> dict:
        wrong = sorted({k for _, k in facts} - set(concept.keywords[language]))
        options = [keyword, *(str(w) for w in rng.choice(wrong, OPTIONS - 1, replace=False))]
        order = rng.permutation(OPTIONS)
        return {
            "question": str(rng.choice(patterns)).format(a=concept.names[language]),
            "options": [options[i] for i in order],
            "answer": int(np.flatnonzero(order == 0)[0]),
        }

    parts = {"search": facts[:cut], "holdout": facts[cut:]}
    return {
        split: _distinct(
            lambda part=part: row(*part[rng.integers(len(part))]),
            lambda r: (r["question"], frozenset(r["options"])),
            SIZES[split],
        )
        for split, part in parts.items()
    }


def _draw_readings(concepts: list[Concept], rng: np.random.Generator) -> Rows:
    def row() -> dict:
        scene = draw_scene_plan(rng, concepts)
        asked = questions(scene, "en")
        question = asked[str(rng.choice([kind for kind in asked if kind != "related"]))]
        told = ", ".join(islice(notes(scene, "en", rng), 3))
        return {"notes": told, "question": question.text, "answers": list(question.answers)}

    return _distinct(row, lambda r: (r["notes"], r["question"]), sum(SIZES.values()))


def _draw_sums(concepts: list[Concept], language: str, rng: np.random.Generator) -> Rows:
    def row() -> dict:
        text, answer = draw_sum(concepts, language, str(rng.choice(["total", "remain"])), rng)
        return {"question": text, "answers": [answer]}

    return _distinct(row, lambda r: r["question"], sum(SIZES.values()))


def _distinct(draw: Callable, key: Callable, n: int) -> list:
    found: dict = {}
    while len(found) < n:
        item = draw()
        found.setdefault(key(item), item)
    return list(found.values())


def _split(items: list) -> list[tuple[str, list]]:
    cut = SIZES["search"]
    return [("search", items[:cut]), ("holdout", items[cut:])]


def ground_labels(scene: Scene, cover: np.ndarray, index: dict[str, int]) -> np.ndarray:
    """Tower classes by patch: a concept's index, or the ground's after the concepts."""
    classes = [index[t.char] for t in scene.things] + [len(index) + GROUNDS.index(scene.ground)]
    return np.array(classes)[cover]
