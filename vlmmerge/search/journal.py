"""Journal: the append-only JSONL file of a search, its only state."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmmerge.errors import ConfigError, EngineError

VERSION = 1

Row = dict[str, Any]


class Journal:
    """Rows of one search. Every row is on disk before the next is begun.

    A resumed journal keeps its lines byte for byte; a last line that a kill has torn is cut off.
    """

    def __init__(self, path: Path, rows: list[Row]) -> None:
        self.path = path
        self.rows = rows
        self._evaluations = {_key(row): row for row in rows if row["type"] == "evaluation"}
        self._since = time.perf_counter()

    @classmethod
    def create(cls, path: Path) -> "Journal":
        return cls(path, [])

    @classmethod
    def resume(cls, path: Path) -> "Journal":
        """Read a journal, mending a torn last line. Raises `ConfigError` where it is damaged."""
        rows, good = _read(path)
        if good < path.stat().st_size:
            with path.open("rb+") as file:
                file.truncate(good)
        return cls(path, rows)

    @classmethod
    def read(cls, path: Path) -> "Journal":
        """Read a journal without changing it."""
        if not path.exists():
            raise ConfigError(f"{path.parent}: holds no search, {path.name} is missing")
        return cls(path, _read(path)[0])

    @property
    def header(self) -> Row:
        return self.rows[0]

    @property
    def finished(self) -> bool:
        return bool(self.rows) and self.rows[-1]["type"] == "end"

    def append(self, row: Mapping[str, Any]) -> Row:
        """Write a row, with the wall-clock seconds since the one before it."""
        now = time.perf_counter()
        stamped = {**row, "wall_seconds": round(now - self._since, 4)}
        self._since = now
        line = json.dumps(stamped, ensure_ascii=False, allow_nan=False) + "\n"
        try:
            with self.path.open("ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise EngineError(f"{self.path}: cannot be written ({error.strerror})") from error
        kept: Row = json.loads(line)
        self.rows.append(kept)
        if kept["type"] == "evaluation":
            self._evaluations[_key(kept)] = kept
        return kept

    def evaluation(self, phase: str, label: str, split: str) -> Row | None:
        """The row of one evaluation."""
        return self._evaluations.get((phase, label, split))

    def find(self, kind: str) -> Row | None:
        """The first row of a type."""
        return next((row for row in self.rows if row["type"] == kind), None)

    def evaluations(self, phase: str) -> list[Row]:
        """All evaluations of a phase, in order."""
        return [row for row in self._evaluations.values() if row["phase"] == phase]

    def check_header(self, header: Mapping[str, Any]) -> None:
        """Refuse to go on with a search that was begun otherwise; says what differs."""
        now = json.loads(json.dumps(header))
        difference = _difference(
            {k: v for k, v in self.header.items() if k != "wall_seconds"}, now, ""
        )
        if difference:
            raise ConfigError(f"{self.path}: was begun with another {difference}")


def _key(row: Row) -> tuple[str, str, str]:
    return row["phase"], row["label"], row["split"]


def _read(path: Path) -> tuple[list[Row], int]:
    """The rows, and how many bytes of the file they are."""
    rows: list[Row] = []
    good = 0
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1], 1):
        try:
            row = json.loads(line)
        except ValueError:
            if number == len(lines) - 1:
                break  # torn: the newline came, the rest did not
            raise ConfigError(f"{path}: line {number} is damaged") from None
        rows.append(row)
        good += len(line) + 1
    if rows and (rows[0].get("type") != "search" or rows[0].get("version") != VERSION):
        raise ConfigError(f"{path}: is not a journal of this version of vlmmerge")
    return rows, good


def _difference(old: Any, new: Any, where: str) -> str | None:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(k for k in new if k not in old)]:
            if found := _difference(old.get(key), new.get(key), f"{where}.{key}".strip(".")):
                return found
        return None
    return None if old == new else f"{where}: {old!r}, now {new!r}"
