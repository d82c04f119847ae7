"""What a scorer asks, and what it makes of answers; by a runner that answers as told."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from local_rows import picture, task, write
from support import QUICKSTART

from vlmmerge.checkpoints import Checkpoint
from vlmmerge.scoring import Runner, Scorer
from vlmmerge.scoring.encoding import Encoded
from vlmmerge.scoring.scorer import TaskScore, perplexity
from vlmmerge.tasks import Example, Task


@dataclass
class Done:
    """Answers that are there at once."""

    answers: list[Any]

    def result(self) -> list[Any]:
        return self.answers

    def settle(self) -> None:
        pass


class Told:
    """A runner whose model is a function of an example; it keeps what it was asked."""

    def __init__(self, model: Callable[[Example], Any]) -> None:
        self.encoder = self
        self.asked: list[Example] = []
        self.settings: list[tuple[int, tuple[str, ...]]] = []
        self._model = model

    def encode(self, _: Task, example: Example) -> Encoded:
        self.asked.append(example)
        options = tuple(tuple(option.encode()) for option in example.options)
        return Encoded((len(self.asked) - 1,), {}, (), options)

    def _answers(self, prompts: Sequence[Encoded]) -> list[Any]:
        return [self._model(self.asked[prompt.ids[0]]) for prompt in prompts]

    def generate(self, prompts: Sequence[Encoded], tokens: int, stop: Sequence[str] = ()) -> Done:
        self.settings.append((tokens, tuple(stop)))
        return Done([(answer, 1) for answer in self._answers(prompts)])

    option_log_likelihoods = perplexities = lambda self, prompts: Done(self._answers(prompts))


def scored(mine: Task, model: Callable[[Example], Any]) -> tuple[TaskScore, Told]:
    told = Told(model)
    scorer = Scorer(told, {"mine": mine})  # type: ignore[arg-type]
    rows = range(len(mine.load("search")))
    return scorer.score("search", {"mine": rows})["mine"], told


def generation(folder: Path, **changes: object) -> Task:
    content = [{"question": f"{i} + {i}?", "answers": [str(2 * i)]} for i in range(4)]
    write(folder, "search", content)
    return task(folder, **changes)


def test_what_cannot_be_read_is_wrong_and_counted(tmp_path: Path) -> None:
    said = {
        "Q: 0 + 0?": "0",
        "Q: 1 + 1?": "1 + 1 = ２ です。",
        "Q: 2 + 2?": "many",
        "Q: 3 + 3?": "",
    }
    mine = generation(tmp_path, extract="number")
    score, _ = scored(mine, lambda example: said[example.prompt])
    assert score.per_example == (1, 1, 0, 0)
    assert score.answers == ("0", "2", "", "")
    assert score.raw == tuple(said.values())
    assert (score.unparsable, score.empty) == (0.25, 0.25)
    assert score.scores == {"exact_match": (1, 1, 0, 0)}


def test_settings_reach_the_model_and_answers_end_at_a_stop(tmp_path: Path) -> None:
    mine = generation(tmp_path, generation={"max_new_tokens": 7, "stop": ["\n"]})
    score, told = scored(mine, lambda example: "0\nQ: 1 + 1?")
    assert told.settings == [(7, ("\n",))]
    assert score.raw == ("0",) * 4
    assert generation(tmp_path, max_new_tokens=9).new_tokens == 9


@pytest.mark.parametrize(
    ("language", "right", "wrong"),
    [
        ("ja", "答えは2です", "The answer is 2"),
        ("th", "คำตอบคือ 2", "The answer is 2"),
        ("ar", "الجواب هو 2", "The answer is 2"),
    ],
)
def test_the_language_is_looked_at_in_what_was_written(
    tmp_path: Path, language: str, right: str, wrong: str
) -> None:
    node = {"extract": "number", "language": language}
    mine = generation(tmp_path, **node)
    for text, rate in ((right, 0.0), (wrong, 1.0)):
        score, _ = scored(mine, lambda _, text=text: text)
        assert score.wrong_language == rate
        assert score.per_example == (0, 1, 0, 0)  # the number is read in any language
    strict = generation(tmp_path, **node, blank_wrong_language=True)
    assert scored(strict, lambda _: wrong)[0].per_example == (0, 0, 0, 0)
    assert scored(strict, lambda _: right)[0].per_example == (0, 1, 0, 0)


OPTIONS = ["aa", "b", "cccc"]


def choice(folder: Path, **changes: object) -> Task:
    write(folder, "search", [{"question": "?", "options": OPTIONS, "answer": "B"}])
    node: dict[str, object] = {
        "kind": "multiple_choice",
        "columns": {"options": "options", "answer": "answer"},
        "prompt": "{question}\n{options}",
        **changes,
    }
    return task(folder, **node)


@pytest.mark.parametrize(
    ("normalization", "values", "expected"),
    [
        ("sum", (-3.0, -2.0, -3.9), "b"),
        ("char", (-3.0, -2.0, -3.9), "cccc"),
        ("byte", (-3.0, -2.0, -8.0), "aa"),
        ("token", (-3.0, -1.4, -8.0), "b"),
    ],
)
def test_normalisation(
    tmp_path: Path, normalization: str, values: tuple[float, ...], expected: str
) -> None:
    score, _ = scored(choice(tmp_path, normalization=normalization), lambda _: values)
    assert score.answers == (expected,)


def test_mutual_information_takes_away_what_is_likely_anyway(tmp_path: Path) -> None:
    def model(example: Example) -> list[float]:
        return [-1.0, -2.0, -5.0] if example.prompt == "Answer:" else [-1.0, -1.5, -4.8]

    assert scored(choice(tmp_path), model)[0].answers == ("aa",)
    score, told = scored(choice(tmp_path, mutual_information="Answer:"), model)
    assert score.answers == ("b",)
    bare = told.asked[-1]
    assert (bare.prompt, bare.pictures, bare.turns) == ("Answer:", (), ())
    score, told = scored(choice(tmp_path, mutual_information=True), model)
    assert told.asked[-1].prompt == ""


def test_rotations_undo_a_liking_for_a_place(tmp_path: Path) -> None:
    def model(example: Example) -> list[float]:
        """Likes what stands first by 2, and `b` by 1."""
        return [2.0 * (k == 0) + (text in ("b", "B")) - 5 for k, text in enumerate(example.options)]

    assert scored(choice(tmp_path), model)[0].answers == ("aa",)
    score, told = scored(choice(tmp_path, rotations="mean"), model)
    assert score.answers == ("b",)
    assert [e.options for e in told.asked] == [
        ("aa", "b", "cccc"),
        ("b", "cccc", "aa"),
        ("cccc", "aa", "b"),
    ]
    assert told.asked[1].prompt == "?\nA. b\nB. cccc\nC. aa"
    # One rotation each: a tie of votes, which the mean breaks.
    assert scored(choice(tmp_path, rotations="majority"), model)[0].answers == ("b",)


def test_rotated_letters_are_of_places_and_options_of_rows(tmp_path: Path) -> None:
    def model(example: Example) -> list[float]:
        listed = [line[3:] for line in example.prompt.splitlines()[1:]]
        known = [-1.0 if text == "cccc" else -3.0 for text in listed]
        liked = [0.0, -1.5, -3.5]  # the letter A, always
        return [a + b for a, b in zip(known, liked, strict=True)] if listed else liked

    node = {"scored": "letter", "rotations": "mean", "mutual_information": True}
    assert scored(choice(tmp_path, scored="letter"), model)[0].answers == ("aa",)
    score, told = scored(choice(tmp_path, **node), model)
    assert score.answers == ("cccc",)
    assert {e.options for e in told.asked} == {("A", "B", "C")}
    plain, _ = scored(choice(tmp_path, scored="letter", mutual_information=True), model)
    assert plain.answers == ("cccc",)


def test_a_majority_may_differ_from_the_mean(tmp_path: Path) -> None:
    def model(example: Example) -> list[float]:
        first = {"aa": [-1.0, -2.0, -9.0], "b": [-2.0, -1.0, -9.0], "cccc": [-30.0, -1.0, -9.0]}
        by_option = dict(zip(OPTIONS, first[example.options[0]], strict=True))
        return [by_option[text] for text in example.options]

    assert scored(choice(tmp_path, rotations="majority"), model)[0].answers == ("b",)
    assert scored(choice(tmp_path, rotations="mean"), model)[0].answers == ("b",)

    def split(example: Example) -> list[float]:
        first = {"aa": [-1.0, -1.1, -9.0], "b": [-1.0, -1.1, -9.0], "cccc": [-30.0, -1.0, -9.0]}
        by_option = dict(zip(OPTIONS, first[example.options[0]], strict=True))
        return [by_option[text] for text in example.options]

    assert scored(choice(tmp_path, rotations="majority"), split)[0].answers == ("aa",)
    assert scored(choice(tmp_path, rotations="mean"), split)[0].answers == ("b",)


def test_a_choice_by_generation_is_parsed(tmp_path: Path) -> None:
    mine = choice(tmp_path, answered_by="generation")
    score, told = scored(mine, lambda _: "The answer is (B).")
    assert (score.answers, score.mean, score.unparsable) == (("b",), 1.0, 0.0)
    assert told.asked[0].options == ()
    score, _ = scored(mine, lambda _: "I cannot tell.")
    assert (score.answers, score.mean, score.unparsable) == (("",), 0.0, 1.0)


def test_a_delimiter_stands_before_options(tmp_path: Path) -> None:
    _, told = scored(choice(tmp_path, delimiter=" "), lambda _: [0.0, 0.0, 0.0])
    assert told.asked[0].options == (" aa", " b", " cccc")


def test_perplexities_are_those_of_the_definition() -> None:
    mine = Task(
        name="t",
        dataset={"path": "x"},
        columns={"references": "text"},
        prompt="",
        metric="bits_per_byte",
        kind="perplexity",
        higher_is_better=False,
    )
    score = perplexity(mine, [(-6 * math.log(2), 3, 2), (-math.log(2), 1, 4)])
    assert score.per_example == pytest.approx((3.0, 0.25))
    assert score.metrics == pytest.approx(
        {
            "bits_per_byte": 1.625,
            "log_perplexity": (2 + 1) * math.log(2) / 2,
            "perplexity": (4 + 2) / 2,
            "corpus_bits_per_byte": 7 / 6,
            "corpus_perplexity": 2 ** (7 / 4),
        }
    )
    assert math.isfinite(perplexity(mine, [(-1e9, 1, 1)]).metrics["perplexity"])


def test_a_model_reads_text_and_text_about_a_picture(tmp_path: Path) -> None:
    node = {"kind": "perplexity", "metric": "log_perplexity", "higher_is_better": False}
    texts = ["a shrine gate on the grass", "grass the on gate shrine a"]
    content = [{"text": text, "image": {"bytes": picture(9)}} for text in texts]
    write(tmp_path, "search", content)
    bare = task(tmp_path, **node, prompt="", columns={"references": "text"})
    seen = task(
        tmp_path,
        **node,
        prompt="Describe the picture.",
        columns={"references": "text", "image": "image"},
    )
    runner = Runner(Checkpoint.open(QUICKSTART / "vlm"))
    tasks = {"bare": replace(bare, name="bare"), "seen": replace(seen, name="seen")}
    scores = Scorer(runner, tasks).score("search", {name: [0, 1] for name in tasks})
    for score in scores.values():
        likely, unlikely = score.per_example
        assert 0 < likely < unlikely
    assert scores["seen"].per_example != scores["bare"].per_example
