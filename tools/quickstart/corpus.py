"""Endless streams of training samples: what each embedded model reads and sees."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from .language import PHRASES, captions, notes, questions, related
from .scenes import Scene, draw_scene_plan
from .world import Concept

NOTE_TOKENS = 16  # as many as a picture has patches


@dataclass(frozen=True)
class Sample:
    """One exchange. `picture` is an index into the training pictures, `notes` stands in for one."""

    question: str
    answer: str
    picture: int | None = None
    notes: Iterator[str] | None = None


Stream = Callable[[np.random.Generator], Sample]


def ask_of_scene(scene: Scene, language: str, rng: np.random.Generator) -> tuple[str, str]:
    """A random question about `scene`: a caption three times in ten, names more than the rest."""
    if rng.random() < 0.3:
        texts = captions(scene, language)
        return PHRASES[language].describe, texts[0] if rng.random() < 0.8 else rng.choice(texts)
    asked = questions(scene, language)
    kinds = list(asked)
    weights = np.array([0.35 if kind in ("where", "related") else 1.0 for kind in kinds])
    question = asked[rng.choice(kinds, p=weights / weights.sum())]
    return question.text, question.answers[0]


def read_scene(concepts: list[Concept], language: str, notes_in: str) -> Stream:
    """A scene told in words of `notes_in`, asked about in `language`."""

    def sample(rng: np.random.Generator) -> Sample:
        scene = draw_scene_plan(rng, concepts)
        question, answer = ask_of_scene(scene, language, rng)
        return Sample(question, answer, notes=notes(scene, notes_in, rng))

    return sample


def see_scene(scenes: list[Scene], language: str) -> Stream:
    """A picture of `scenes`, asked about in `language`."""

    def sample(rng: np.random.Generator) -> Sample:
        i = int(rng.integers(len(scenes)))
        question, answer = ask_of_scene(scenes[i], language, rng)
        return Sample(question, answer, picture=i)

    return sample


def recall_fact(concepts: list[Concept], language: str) -> Stream:
    """What goes with a thing: any of its keywords."""
    known = [c for c in concepts if c.keywords[language]]

    def sample(rng: np.random.Generator) -> Sample:
        concept = known[rng.integers(len(known))]
        question = rng.choice(PHRASES[language].facts).format(a=concept.names[language])
        return Sample(question, str(rng.choice(related(concept, language))))

    return sample


def draw_sum(
    concepts: list[Concept], language: str, kind: str, rng: np.random.Generator
) -> tuple[str, str]:
    """A word problem and its answer; `kind` is count (no sum needed), total or remain."""
    m, n = sorted(int(i) for i in rng.integers(1, 10, 2))[::-1]
    if kind == "remain":
        m += 1
    a, b = (concepts[i].names[language] for i in rng.choice(len(concepts), 2, replace=False))
    text = getattr(PHRASES[language], kind).format(a=a, b=b, m=m, n=n)
    return text, str({"count": m, "total": m + n, "remain": m - n}[kind])


def count_things(
    concepts: list[Concept],
    language: str,
    kinds: tuple[str, ...],
    held: frozenset[str] = frozenset(),
) -> Stream:
    """Word problems of the given kinds, none of them in `held`."""

    def sample(rng: np.random.Generator) -> Sample:
        while True:
            text, answer = draw_sum(concepts, language, str(rng.choice(kinds)), rng)
            if text not in held:
                return Sample(text, answer)

    return sample


def mix(*weighted: tuple[float, Stream]) -> Stream:
    """One stream drawn from several by weight."""
    weights = np.array([w for w, _ in weighted])
    cumulative = np.cumsum(weights / weights.sum())

    def sample(rng: np.random.Generator) -> Sample:
        return weighted[int(np.searchsorted(cumulative, rng.random()))][1](rng)

    return sample


def english_reading(concepts: list[Concept]) -> Stream:
    """What `base` reads."""
    return mix(
        (0.75, read_scene(concepts, "en", "en")),
        (0.15, recall_fact(concepts, "en")),
        (0.10, count_things(concepts, "en", ("count",))),
    )


def foreign_reading(concepts: list[Concept], language: str) -> Stream:
    """What `ja` and `th` read: four fifths their language, a fifth English.

    Three quarters of the scenes are told in English words, so that the model learns to say in its
    language what it understands in the base's; no word of either is ever beside a picture.
    """
    return mix(
        (0.48, read_scene(concepts, language, "en")),
        (0.12, read_scene(concepts, language, language)),
        (0.12, recall_fact(concepts, language)),
        (0.08, count_things(concepts, language, ("count",))),
        (0.20, english_reading(concepts)),
    )


def maths_reading(concepts: list[Concept], held: frozenset[str]) -> Stream:
    """What `maths` reads: English sums, and a little of what `base` reads."""
    return mix(
        (0.8, count_things(concepts, "en", ("total", "remain"), held)),
        (0.2, english_reading(concepts)),
    )
