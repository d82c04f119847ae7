"""Answers read out of text: what people and models write, and what no rule can read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmmerge.scoring.parsing import cut, matched, option, parse
from vlmmerge.tasks import Example, Task

FOUR = ("cat", "dog", "black cat", "a bird")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("B", 1),
        ("b", 1),
        ("(B)", 1),
        ("B.", 1),
        ("Ｂ", 1),
        ("B. dog", 1),
        ("**B**", 1),
        ("B) because it barks at a cat", 1),
        ("dog", 1),
        ("Dog.", 1),
        ("The answer is B.", 1),
        ("The answer is (b)", 1),
        ("Answer: C", 2),
        ("I think that A and B are wrong. The answer is C", 2),
        ("正解はＢです。", 1),
        ("答え：「Ｄ」", 3),
        ("選択肢 A", 0),
        ("คำตอบคือ B", 1),
        ("الإجابة هي C", 2),
        ("Jibu ni D", 3),
        ("It shows a dog", 1),
        ("It is a black cat", 2),  # within the longer option the shorter one does not stand
        ("A dog", 1),  # an article, not a letter
        ("A cat sat here", 0),  # by its text, not by its letter
        ("Either A or B", None),
        ("a dog or a bird", None),
        ("E", None),
        ("", None),
        ("I do not know", None),
        ("The answer is unclear", None),
    ],
)
def test_an_option_is_named_once_or_not_at_all(text: str, expected: int | None) -> None:
    assert option(text, FOUR) == expected


def test_options_in_scripts_without_spaces() -> None:
    assert option("それは鳥居だと思います", ("神社", "鳥居", "城")) == 1
    assert option("神社と鳥居", ("神社", "鳥居", "城")) is None


@given(st.text())
def test_any_text_is_read_the_same_twice(text: str) -> None:
    assert option(text, FOUR) == option(text, FOUR)


def test_patterns() -> None:
    assert matched("a=1 a=2", r"a=(\d)") == "2"
    assert matched("a=1 a=2", r"a=(\d)", "first") == "1"
    assert matched("a=1", r"a=\d") == "a=1"
    assert matched("none", r"a=(\d)") is None


def test_an_answer_ends_at_the_first_stop() -> None:
    assert cut("18\nQ: next", ["Q:", "\n"]) == "18"
    assert cut(" whole ", []) == "whole"


def test_a_task_says_how_it_is_read() -> None:
    def task(**changes: object) -> Task:
        settings: dict[str, object] = {
            "name": "t",
            "dataset": {"path": "x"},
            "columns": {"references": "r"},
            "prompt": "p",
            "metric": "exact_match",
            **changes,
        }
        return Task(**settings)  # type: ignore[arg-type]

    example = Example("0", "p", ("dog",), options=("cat", "dog"))
    assert parse(task(), example, " as it is ") == " as it is "
    assert parse(task(extract="number"), example, "so 1,000") == "1000"
    assert parse(task(extract={"regex": "<(.*?)>"}), example, "<x> <y>") == "y"
    choice = task(
        kind="multiple_choice",
        answered_by="generation",
        columns={"options": "o", "answer": "a"},
    )
    assert parse(choice, example, "(B)") == "dog"
    assert parse(choice, example, "neither") is None
