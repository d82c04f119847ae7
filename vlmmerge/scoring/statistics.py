"""Intervals by bootstrap: rows are drawn with replacement, those about one picture together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
LEVEL = 0.95

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


class Bootstrap:
    """Resamples of several tasks at once.

    `units` maps a task to the unit of each of its rows. Units are drawn within strata, a stratum
    being the units that stand in the same tasks, so that rows about one picture stay together and
    every task keeps about its size. The same seed gives every system the same draws: differences
    between systems are paired.
    """

    def __init__(self, units: Mapping[str, Sequence[str]], seed: int = 0) -> None:
        tasks_of: dict[str, list[str]] = {}
        for task, values in units.items():
            for unit in dict.fromkeys(values):
                tasks_of.setdefault(unit, []).append(task)
        strata: dict[tuple[str, ...], list[str]] = {}
        for unit, tasks in tasks_of.items():
            strata.setdefault(tuple(tasks), []).append(unit)
        rng = np.random.default_rng(seed)
        column: dict[str, int] = {}
        counts = []
        for members in strata.values():
            for unit in members:
                column[unit] = len(column)
            share = np.full(len(members), 1 / len(members))
            counts.append(rng.multinomial(len(members), share, size=RESAMPLES))
        drawn = np.concatenate(counts, axis=1)
        self._weights: dict[str, Floats] = {}
        for task, values in units.items():
            weights = drawn[:, [column[unit] for unit in values]].astype(np.float64)
            totals = weights.sum(1, keepdims=True)
            self._weights[task] = weights / np.where(totals == 0, 1, totals)

    def means(self, task: str, per_example: Sequence[float | None]) -> Floats:
        """The task's mean in every resample, [RESAMPLES]; rows without a score (None) left out."""
        scores, weights = np.asarray(per_example, np.float64), self._weights[task]
        known = ~np.isnan(scores)
        if known.all():
            return weights @ scores
        weights, scores = weights[:, known], scores[known]
        totals = weights.sum(1)
        # A resample may hold no row that has a score.
        return np.where(
            totals > 0, weights @ scores / np.where(totals > 0, totals, 1), scores.mean()
        )


def interval(value: float, resampled: Floats) -> Interval:
    """`value` with the percentile interval of its resampled values."""
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(resampled, [tail, 100 - tail])
    return Interval(float(value), float(low), float(high))


def known(per_example: Sequence[float]) -> list[float]:
    """The scores of rows that have one; NaN stands where a judge's verdict was not read."""
    return [score for score in per_example if not math.isnan(score)]


def or_none(score: float) -> float | None:
    """A row's score as it is written down: None where it has none."""
    return None if math.isnan(score) else score
