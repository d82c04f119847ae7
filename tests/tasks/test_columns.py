"""Columns by dotted names, filters, nested lists as rows."""

from pathlib import Path

import pytest
from local_rows import task, write

from vlmmerge.errors import TaskError
from vlmmerge.tasks.columns import exploded, fill, keeps, lookup

ROW = {
    "a": {"b": 1, "c": [{"d": "x"}, {"d": "y"}]},
    "lists": {"d": ["x", "y"]},
    "answer": {"gemini-1.0": "g"},
    "dotted.name": 7,
    "empty": None,
    "two words": 18.0,
}


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("a.b", 1),
        ("a.c.d", ["x", "y"]),
        ("lists.d", ["x", "y"]),
        ("answer.gemini-1.0", "g"),
        ("dotted.name", 7),
        ("empty.anything", None),
    ],
)
def test_nested_columns(column: str, value: object) -> None:
    assert lookup(ROW, column) == value


def test_a_column_that_is_not_there() -> None:
    for column in ("b", "a.x", "a.b.c"):
        with pytest.raises(KeyError):
            lookup(ROW, column)


def test_templates() -> None:
    assert fill("{two words}: {a.c.d} {a.b}", ROW) == "18: x, y 1"
    assert fill('{"json": {}} { a }', ROW) == '{"json": {}} { a }'
    with pytest.raises(TaskError, match="column 'riddle' is missing; there are a, lists"):
        fill("{riddle}", ROW)


def test_a_list_of_mappings_and_a_mapping_of_lists_explode_alike() -> None:
    rows = [{"x": 1}, {"x": 2}]
    assert list(exploded({"id": 0, "q": rows}, "q")) == [
        {"id": 0, "q": {"x": 1}},
        {"id": 0, "q": {"x": 2}},
    ]
    (nested,) = exploded({"a": {"b": [{"c": 1}]}}, "a.b")
    assert lookup(nested, "a.b.c") == 1
    assert list(exploded({"q": {"x": [1, 2]}}, "q")) == [{"q": {"x": 1}}, {"q": {"x": 2}}]
    for bad in ({"q": "text"}, {"q": None}, {"q": {"x": [1], "y": [1, 2]}}):
        with pytest.raises(TaskError, match="column 'q'"):
            list(exploded(bad, "q"))


@pytest.mark.parametrize(
    ("conditions", "kept"),
    [
        ({"a.b": 1}, True),
        ({"a.b": [2, 1]}, True),
        ({"a.b": 2}, False),
        ({"a.b": True}, False),  # 1 is not yes
        ({"a.b": {"min": 1, "max": 3}}, True),
        ({"a.b": {"max": 0}}, False),
        ({"a.b": {"not": 1}}, False),
        ({"a.b": {"not": [2, 3]}}, True),
        ({"empty": {"min": 0}}, False),
        ({"a.b": 1, "dotted.name": 8}, False),
    ],
)
def test_filters(conditions: dict[str, object], kept: bool) -> None:
    assert keeps(ROW, conditions) is kept


def test_a_filter_reads_values_and_runs_nothing(tmp_path: Path) -> None:
    write(tmp_path, "search", [{"question": "1 or True", "answers": ["a"]}])
    assert len(task(tmp_path, filter={"question": "1 or True"}).load("search")) == 1
    with pytest.raises(TaskError, match="no row meets the filter"):
        task(tmp_path, filter={"question": "True"}).load("search")
    with pytest.raises(TaskError, match=r"tasks\.mine\.filter: row 0: column 'x' is missing"):
        task(tmp_path, filter={"x": 1}, on_bad_row="skip").load("search")


def test_questions_of_one_picture_become_rows(tmp_path: Path) -> None:
    nested = [{"id": 5, "qas": [{"q": "one", "a": "1"}, {"q": "two", "a": "2"}]}] * 2
    write(tmp_path, "search", nested)
    mine = task(
        tmp_path, explode="qas", columns={"references": "qas.a", "id": "id"}, prompt="{qas.q}?"
    )
    examples = mine.load("search")
    assert [e.prompt for e in examples] == ["one?", "two?"] * 2
    # A dataset's ids that repeat still tell rows apart.
    assert [e.id for e in examples] == ["5", "5#2", "5#3", "5#4"]
    assert [
        e.id
        for e in task(
            tmp_path, explode="qas", columns={"references": "qas.a"}, prompt="{qas.q}?"
        ).load("search")
    ] == ["0.0", "0.1", "1.0", "1.1"]
