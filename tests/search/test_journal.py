"""The journal: append-only, mended after a kill, refused when damaged or of another search."""

from pathlib import Path

import pytest

from vlmmerge.errors import ConfigError
from vlmmerge.search import Journal

HEADER = {"type": "search", "version": 1, "config": {"seed": 0, "method": {"name": "ties"}}}


def evaluation(label: str, value: float = 1.0) -> dict[str, object]:
    return {
        "type": "evaluation",
        "phase": "candidate",
        "label": label,
        "split": "search",
        "objective": value,
    }


def filled(path: Path) -> Journal:
    journal = Journal.create(path)
    for row in (HEADER, evaluation("0"), evaluation("1", 0.1 + 0.2)):
        journal.append(row)
    return journal


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    journal = filled(tmp_path / "j.jsonl")
    again = Journal.resume(tmp_path / "j.jsonl")
    assert again.rows == journal.rows
    found = again.evaluation("candidate", "1", "search")
    assert found is not None
    assert found["objective"] == 0.1 + 0.2
    assert again.evaluation("candidate", "1", "holdout") is None
    assert [row["label"] for row in again.evaluations("candidate")] == ["0", "1"]
    assert not again.finished


def test_every_cut_resumes_to_whole_lines(tmp_path: Path) -> None:
    filled(tmp_path / "j.jsonl")
    whole = (tmp_path / "j.jsonl").read_bytes()
    cut = tmp_path / "cut.jsonl"
    for length in range(len(whole) + 1):
        cut.write_bytes(whole[:length])
        rows = Journal.resume(cut).rows
        kept = whole[:length].rpartition(b"\n")
        assert cut.read_bytes() == kept[0] + kept[1]
        assert len(rows) == whole[:length].count(b"\n")


def test_damage_in_the_middle_is_refused(tmp_path: Path) -> None:
    filled(tmp_path / "j.jsonl")
    lines = (tmp_path / "j.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "j.jsonl").write_bytes(lines[0] + b'{"type": "evalu\n' + lines[2])
    with pytest.raises(ConfigError, match="line 2 is damaged"):
        Journal.resume(tmp_path / "j.jsonl")


def test_another_file_is_no_journal(tmp_path: Path) -> None:
    (tmp_path / "j.jsonl").write_text('{"type": "other"}\n')
    with pytest.raises(ConfigError, match="not a journal"):
        Journal.resume(tmp_path / "j.jsonl")
    with pytest.raises(ConfigError, match="holds no search"):
        Journal.read(tmp_path / "none.jsonl")


def test_another_search_is_not_gone_on_with(tmp_path: Path) -> None:
    filled(tmp_path / "j.jsonl")
    journal = Journal.resume(tmp_path / "j.jsonl")
    journal.check_header(HEADER)
    other = {**HEADER, "config": {"seed": 1, "method": {"name": "ties"}}}
    with pytest.raises(ConfigError, match=r"config\.seed: 0, now 1"):
        journal.check_header(other)


def test_numbers_that_json_has_not_are_no_rows(tmp_path: Path) -> None:
    journal = filled(tmp_path / "j.jsonl")
    before = (tmp_path / "j.jsonl").read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        journal.append(evaluation("2", float("nan")))
    assert (tmp_path / "j.jsonl").read_bytes() == before
