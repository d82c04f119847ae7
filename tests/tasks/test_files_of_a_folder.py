"""data_files of a local folder are read where they lie, as the folder's own tables are."""

import json
from pathlib import Path

import pytest

from vlmmerge.errors import TaskError
from vlmmerge.tasks import Task


def task(dataset: dict[str, object]) -> Task:
    columns = {"references": "answer"}
    return Task("t", dataset, columns, "{question}", "exact_match")


def test_files_are_named_from_the_folder(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = [{"question": f"q{i}", "answer": f"a{i}"} for i in range(3)]
    (tmp_path / "mine.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    named = task({"path": str(tmp_path), "data_files": {"holdout": "mine.jsonl"}})
    whole = task({"path": str(tmp_path), "data_files": {"holdout": str(tmp_path / "mine.jsonl")}})
    assert [e.prompt for e in named.load("holdout")] == ["q0", "q1", "q2"]
    assert [e.references for e in named.load("holdout")] == [("a0",), ("a1",), ("a2",)]
    assert [e.digest for e in named.load("holdout")] == [e.digest for e in whole.load("holdout")]
    assert capfd.readouterr().err == ""  # nothing is generated into a cache


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    lost = task({"path": str(tmp_path), "data_files": {"holdout": "lost.jsonl"}})
    with pytest.raises(TaskError, match=r"lost\.jsonl: no such file"):
        lost.load("holdout")
