"""What `compare` sets side by side, and what it does not."""

import json
from pathlib import Path

import pytest

from vlmmerge.errors import ConfigError
from vlmmerge.verbs.compare import compare, read


def evaluation(folder: Path, split: str, scores: list[float]) -> Path:
    folder.mkdir()
    (folder / "config.yaml").write_text(f"split: {split}\n", encoding="utf-8")
    (folder / "results.json").write_text(json.dumps({"t": {"fingerprint": "f"}}), encoding="utf-8")
    lines = [
        json.dumps({"task": "t", "id": str(i), "unit": str(i), "score": score})
        for i, score in enumerate(scores)
    ]
    (folder / "samples.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def test_rows_of_different_splits_are_not_paired(tmp_path: Path) -> None:
    """Rows are numbered in each split from 0, so that they would seem to be the same."""
    held = read(evaluation(tmp_path / "a", "holdout", [0.0, 1.0]))
    searched = read(evaluation(tmp_path / "b", "search", [1.0, 1.0]))
    with pytest.raises(ConfigError, match=r"a was scored on holdout and .*b on search"):
        compare(held, searched, 0)
    again = read(evaluation(tmp_path / "c", "holdout", [1.0, 1.0]))
    assert compare(held, again, 0)["t"]["diff"] == 0.5
