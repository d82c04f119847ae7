"""The examples of a task's splits: rows read, kept, made, drawn and divided once."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from vlmmerge.errors import TaskError
from vlmmerge.tasks.columns import Row, exploded, keeps
from vlmmerge.tasks.example import Example
from vlmmerge.tasks.making import example_of, stratum_of, turn_of
from vlmmerge.tasks.pictures import Pictures
from vlmmerge.tasks.rows import load_rows, roots_of, splits_of
from vlmmerge.tasks.splitting import HOLDOUT, SEARCH, drawn, shares

if TYPE_CHECKING:
    from vlmmerge.tasks.task import Task


@dataclass(frozen=True)
class Skipped:
    """A row that cannot be used, and why."""

    row: str
    why: str


@dataclass(frozen=True)
class Loaded:
    """The usable rows of a split, the stratum of each, and what was left out."""

    examples: tuple[Example, ...]
    strata: tuple[str, ...]
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True, eq=False)
class Key:
    """A task as a cache key, which a dataclass of mappings cannot be itself."""

    task: "Task"

    def __hash__(self) -> int:
        return hash(self.task.content)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and self.task.content == other.task.content


def split_names(task: "Task") -> list[str]:
    """The splits that a task has: those it names, then its dataset's own."""
    own = splits_of(task.dataset, task.where)
    if task.splits_by is None:
        return own
    named = [SEARCH, HOLDOUT] if task.share is not None else list(task.splits_by)
    return [*named, *(split for split in own if split not in named)]


@lru_cache(maxsize=64)
def load(key: Key, split: str) -> Loaded:
    """A split of a task, with the questions shown before each where there are any."""
    task = key.task
    if split not in split_names(task):
        raise TaskError(f"{task.where}: has no split {split!r}; {', '.join(split_names(task))}")
    loaded = _divided(key, split)
    if not task.shots:
        return loaded
    pool = _divided(key, task.shots_from).examples
    order = [pool[i] for i in np.random.default_rng([task.shots_seed, 4]).permutation(len(pool))]
    shown = tuple(_with_turns(task, example, order) for example in loaded.examples)
    return replace(loaded, examples=shown)


def _divided(key: Key, split: str) -> Loaded:
    """A split as the task names it, or as its dataset does."""
    task = key.task
    if task.share is None or split not in (SEARCH, HOLDOUT):
        source = (task.splits_by or {}).get(split, split)
        own = splits_of(task.dataset, task.where)
        if source not in own:
            raise TaskError(f"{task.where}.splits: there is no {source!r}; {', '.join(own)}")
        return _source(key, source)
    whole = _source(key, _shared_split(task))
    spec = task.splits_by or {}
    parts = shares(whole.examples, whole.strata, task.share, spec.get("seed", 0), task.where)
    rows = parts[split]
    return Loaded(
        tuple(whole.examples[i] for i in rows), tuple(whole.strata[i] for i in rows), whole.skipped
    )


def _shared_split(task: "Task") -> str:
    """The source split that is divided."""
    own = splits_of(task.dataset, task.where)
    name = (task.splits_by or {}).get("of")
    if name is None and len(own) == 1:
        return own[0]
    if name not in own:
        raise TaskError(f"{task.where}.splits.of: {name!r} is none of {', '.join(own)}")
    return str(name)


@lru_cache(maxsize=64)
def _source(key: Key, split: str) -> Loaded:
    """Every usable row of a dataset's split, or `limit` of them."""
    task = key.task
    rows = _numbered(task, split)
    if task.limit is not None:
        chosen = _first(rows, task.limit) if task.streaming else drawn(rows, task.limit, task.seed)
        rows = iter(chosen)
    pictures = Pictures(roots_of(task.dataset), task.max_pixels)
    examples: list[Example] = []
    strata: list[str] = []
    skipped: list[Skipped] = []
    seen: dict[str, int] = {}
    for number, row in rows:
        try:
            if isinstance(row, TaskError):
                raise row
            example = example_of(task, row, number, pictures)
            stratum = stratum_of(task, row)
        except TaskError as error:
            if task.on_bad_row != "skip":
                raise TaskError(f"{task.where}: row {number}: {error}") from error
            skipped.append(Skipped(number, str(error)))
            continue
        seen[example.id] = seen.get(example.id, 0) + 1
        if seen[example.id] > 1:  # ids tell rows apart, also where a dataset's own do not
            example = replace(example, id=f"{example.id}#{seen[example.id]}")
        examples.append(example)
        strata.append(stratum)
    if not examples:
        why = f"; of {len(skipped)} skipped rows the first: {skipped[0].why}" if skipped else ""
        kept = "no row meets the filter" if task.filter else "is empty"
        raise TaskError(f"{task.where}: split {split} {'has no good row' if why else kept}{why}")
    return Loaded(tuple(examples), tuple(strata), tuple(skipped))


def _numbered(task: "Task", split: str) -> Iterator[tuple[str, Row | TaskError]]:
    """Rows that the filter keeps, by number (3.1: the second of what row 3 holds).

    A row that cannot be taken apart comes as the error.
    """
    rows = load_rows(task.dataset, split, task.where, task.streaming)
    for i, row in enumerate(rows):
        try:
            parts = list(exploded(row, task.explode)) if task.explode else [row]
        except TaskError as error:
            yield str(i), error
            continue
        for k, part in enumerate(parts):
            try:
                kept = not task.filter or keeps(part, task.filter)
            except TaskError as error:  # a filter that names no column is no row's fault
                raise TaskError(f"{task.where}.filter: row {i}: {error}") from error
            if kept:
                yield (f"{i}.{k}" if task.explode else str(i)), part


def _first(
    rows: Iterator[tuple[str, Row | TaskError]], limit: int
) -> list[tuple[str, Row | TaskError]]:
    """The first rows; no more are read, so that a stream is not downloaded whole."""
    return [row for _, row in zip(range(limit), rows, strict=False)]


def _with_turns(task: "Task", example: Example, pool: list[Example]) -> Example:
    """An example after the first `shots` of the pool that share nothing with it."""
    others = (other for other in pool if not other.keys & example.keys)
    turns = tuple(turn_of(task, other) for _, other in zip(range(task.shots), others, strict=False))
    if len(turns) < task.shots:
        raise TaskError(
            f"{task.where}.fewshot: {task.shots_from} has {len(turns)} rows to show before row"
            f" {example.id}, not {task.shots}"
        )
    return replace(example, turns=turns)
