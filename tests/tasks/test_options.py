"""Options and labels as datasets write them."""

from pathlib import Path

import pytest
from local_rows import task, write

from vlmmerge.errors import TaskError
from vlmmerge.tasks.options import options_of, right_option

CHOICE = {"kind": "multiple_choice", "columns": {"options": "options", "answer": "answer"}}


@pytest.mark.parametrize(
    "written",
    [
        ["a", "b c", "3"],
        "['a', 'b c', '3']",
        '["a", "b c", "3"]',
        "('a', \"b c\", 3)",
        ' [ "a" , "b c", 3.0 ] ',
    ],
)
def test_a_list_however_it_is_written(written: object) -> None:
    assert options_of({"o": written}, "o") == ("a", "b c", "3")


def test_numbered_columns_may_end_early() -> None:
    row = {"A": "x", "B": "y", "C": None, "D": ""}
    assert options_of(row, ["A", "B", "C", "D"]) == ("x", "y")
    with pytest.raises(TaskError, match="column 'A' is empty"):
        options_of({"A": None, "B": "y"}, ["A", "B"])
    with pytest.raises(TaskError, match="columns A, B, C: option B is empty"):
        options_of({"A": "x", "B": "", "C": "y"}, ["A", "B", "C"])
    with pytest.raises(TaskError, match="column 'C' is missing"):
        options_of({"A": "x", "B": "y"}, ["A", "B", "C"])


@pytest.mark.parametrize(
    "written",
    [
        "__import__('os').system('touch executed')",
        "['a', open('executed', 'w')]",
        "a, b",
        "[" * 5000,
        "'a' 'b'",
        "{'a': 1, 'b': 2}",
        "['a']",
        [],
        ["a", None],
        [["a"], ["b"]],
        7,
        "[" + "'a'," * 60000 + "]",
        [str(i) for i in range(27)],
        ["a", ""],
        "['a', ' ']",
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_no_list_of_options_is_refused_and_never_run(
    written: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TaskError, match="column 'o'"):
        options_of({"o": written}, "o")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("label", "index"),
    [(1, 1), (1.0, 1), ("B", 1), ("b", 1), (" B ", 1), ("1", 1), ("q", 1), ("A", 0)],
)
def test_labels(label: object, index: int) -> None:
    assert right_option(label, ("p", "q", "r")) == index


def test_a_text_goes_before_a_letter() -> None:
    assert right_option("A", ("B", "A")) == 1
    assert right_option("0", ("1", "0")) == 1


@pytest.mark.parametrize("label", [-1, 3, "D", "x", "", True, None, 0.5, "-1", "²"])
def test_labels_of_no_option(label: object) -> None:
    with pytest.raises(TaskError, match="none of its 3 options"):
        right_option(label, ("p", "q", "r"))


def test_a_prompt_lists_options(tmp_path: Path) -> None:
    write(
        tmp_path, "search", [{"question": "?", "options": "['x {question}', 'y']", "answer": "B"}]
    )
    mine = task(tmp_path, **CHOICE, prompt="{question}\n{options}\n答え:")
    (example,) = mine.load("search")
    assert example.prompt == "?\nA. x {question}\nB. y\n答え:"
    assert example.references == ("y",)
    moved = example.rotated(1)
    assert moved.prompt == "?\nA. y\nB. x {question}\n答え:"
    assert moved.rotated(1) == example
    # Where a prompt lists none, it stays as it is.
    (bare,) = task(tmp_path, **CHOICE).load("search")
    assert bare.rotated(1).prompt == bare.prompt == "Q: ?"
