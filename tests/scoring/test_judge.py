"""Judges: metrics by name, tokenizers by language, odd answers counted."""

import pytest

from vlmmerge.errors import TaskError
from vlmmerge.scoring.judge import Judge
from vlmmerge.scoring.language import in_language
from vlmmerge.tasks import Task

REFERENCES = [["草の上に鳥居があります"], ["海のそばに城があります"]]


def task(**changes: object) -> Task:
    settings: dict[str, object] = {
        "name": "t",
        "dataset": {"path": "x"},
        "columns": {"references": "r"},
        "prompt": "p",
        "metric": "cider",
        **changes,
    }
    return Task(**settings)  # type: ignore[arg-type]


def test_japanese_is_scored_by_characters() -> None:
    verdict = Judge(task(language="ja", metrics=("rouge_l",)), REFERENCES).score(
        ["草の上に城があります", "海"], REFERENCES
    )
    assert verdict.per_example[0] > 1
    assert verdict.metrics["rouge_l"] > 0
    assert verdict.metrics["cider"] == pytest.approx(verdict.mean)


def test_a_subset_scores_as_in_the_whole() -> None:
    judge = Judge(task(language="ja"), REFERENCES)
    answers = ["草の上に城があります", "海のそばに城があります"]
    whole = judge.score(answers, REFERENCES).per_example
    assert judge.score(answers[1:], REFERENCES[1:]).per_example == pytest.approx(whole[1:])


def test_odd_answers_are_counted() -> None:
    verdict = Judge(task(language="ja", metric="exact_match"), REFERENCES).score(
        ["", "castle"], REFERENCES
    )
    assert (verdict.empty, verdict.wrong_language) == (1, 1)


def test_an_unknown_metric_is_one_line() -> None:
    with pytest.raises(TaskError, match="unknown metric 'blue'"):
        Judge(task(metric="blue"), REFERENCES)


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("鳥居", "ja", True),
        ("ラーメン 3", "ja", True),
        ("0系新幹線", "ja", True),
        ("shrine", "ja", False),
        ("ศาลเจ้าชินโต", "th", True),
        ("鳥居", "th", False),
        ("มกราคม shrine", "th", True),
        ("a shrine", "en", True),
        ("鳥居", "en", False),
        ("نخلة", "ar", True),
        ("mti wa mnazi", "sw", True),
        ("42", "ja", True),
    ],
)
def test_script_rule(text: str, language: str, expected: bool) -> None:
    assert in_language(text, language) is expected
