"""Splits of one's own: a seeded share of a split's rows, and rows drawn to a limit."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from vlmmerge.errors import TaskError
from vlmmerge.tasks.example import Example

SEARCH, HOLDOUT = "search", "holdout"

T = TypeVar("T")


def drawn(rows: Iterable[T], limit: int, seed: int) -> list[T]:
    """`limit` of the rows, drawn by the seed and in their order, in one pass that keeps no others.

    The same rows in the same order give the same draw.
    """
    rng = np.random.default_rng([seed, 2])
    kept: dict[int, tuple[int, T]] = {}
    for i, row in enumerate(rows):
        place = i if i < limit else int(rng.integers(i + 1))
        if place < limit:
            kept[place] = (i, row)
    return [row for _, row in sorted(kept.values(), key=lambda found: found[0])]


def shares(
    examples: Sequence[Example], strata: Sequence[str], share: float, seed: int, where: str
) -> dict[str, tuple[int, ...]]:
    """Row numbers of `search` and `holdout`: `share` of the units of every stratum is held out.

    Rows that have a picture or their text in common are one unit and stay together; a unit is of
    its first row's stratum. Raises `TaskError` where a split would be empty.
    """
    unit_of = _units([example.keys for example in examples])
    members: dict[int, list[int]] = {}
    for row, unit in enumerate(unit_of):
        members.setdefault(unit, []).append(row)
    by_stratum: dict[str, list[int]] = {}
    for unit, rows in members.items():
        by_stratum.setdefault(strata[rows[0]], []).append(unit)
    rng = np.random.default_rng([seed, 3])
    held: set[int] = set()
    counts = _apportioned({name: len(units) for name, units in by_stratum.items()}, share, seed)
    for stratum in sorted(by_stratum):
        units = by_stratum[stratum]
        order = rng.permutation(len(units))
        held.update(units[i] for i in order[: counts[stratum]])
    found = {
        SEARCH: tuple(row for row, unit in enumerate(unit_of) if unit not in held),
        HOLDOUT: tuple(row for row, unit in enumerate(unit_of) if unit in held),
    }
    for split, rows_of in found.items():
        if not rows_of:
            raise TaskError(
                f"{where}.splits: a share of {share} leaves no row to {split}"
                f" ({len(members)} units that share nothing)"
            )
    return found


def _apportioned(sizes: Mapping[str, int], share: float, seed: int) -> dict[str, int]:
    """How many of each stratum are held out: as near to its share as the share of all allows.

    Rounding each by itself would hold out too many, or too few, where strata are small: what the
    whole share is short of goes to the largest remainders (Hamilton), equal ones by the seed.
    """
    names = sorted(sizes)
    counts = {name: int(share * sizes[name]) for name in names}
    left = round(share * sum(sizes.values())) - sum(counts.values())
    lot = np.random.default_rng([seed, 4]).permutation(len(names)).tolist()
    places = dict(zip(names, lot, strict=True))
    names.sort(key=lambda name: (counts[name] - share * sizes[name], places[name]))
    for name in names[:left]:
        counts[name] += 1
    return counts


def _units(keys: Sequence[frozenset[str]]) -> list[int]:
    """For every row the first row that it is connected with by keys in common."""
    parent = list(range(len(keys)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    first: dict[str, int] = {}
    for row, own in enumerate(keys):
        for key in own:
            one, other = sorted((root(row), root(first.setdefault(key, row))))
            parent[other] = one
    return [root(row) for row in range(len(keys))]
