"""Objectives: one number for a candidate from the scores of its tasks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import numpy as np

from vlmmerge.config import check_keys
from vlmmerge.errors import ConfigError

# No task's scale is smaller: parents that are level must not blow up its noise.
LEAST_SCALE = 0.05

Score = TypeVar("Score", float, np.ndarray[Any, Any])


@dataclass(frozen=True)
class Weighted:
    """A weighted mean of normalised scores, less a penalty for what falls below a floor.

    A score s becomes (s - recipient) / max(|best donor - recipient|, 0.05): 0 is the recipient, and
    1 (or -1) the best donor put into its place. `weights`: task -> weight, 1 where left out; a task
    of weight 0 is not searched on, only reported. `floors`: task -> the share of the recipient's
    score to keep; a normalised score below it costs `penalty` times what is missing.
    """

    weights: Mapping[str, float] | None = None
    floors: Mapping[str, float] | None = None
    penalty: float = 3.0

    def __post_init__(self) -> None:
        for name in ("weights", "floors"):
            for task, value in (getattr(self, name) or {}).items():
                if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                    raise ConfigError(
                        f"objective.{name}.{task}: {value!r} is not a number from 0 up"
                    )

    def searched(self, tasks: Mapping[str, object]) -> list[str]:
        """The tasks that the objective is made of."""
        for name in ("weights", "floors"):
            check_keys(getattr(self, name) or {}, tasks, f"objective.{name}")
        chosen = [t for t in tasks if self.weight(t) > 0 or t in (self.floors or {})]
        if not any(self.weight(task) > 0 for task in chosen):
            raise ConfigError("objective.weights: no task has a weight above 0")
        return chosen

    def weight(self, task: str) -> float:
        return (self.weights or {}).get(task, 1.0)

    def fit(
        self,
        recipient: Mapping[str, float],
        donors: Mapping[str, Mapping[str, float]],
        higher_is_better: Mapping[str, bool],
    ) -> "Scaled":
        """The objective with its scales fixed by the parents' mean scores on the searched tasks."""
        directions = {task: 1.0 if higher_is_better[task] else -1.0 for task in recipient}
        scales = {}
        for task in recipient:
            best = max((directions[task] * scores[task] for scores in donors.values()), default=0.0)
            gap = abs(best - directions[task] * recipient[task])
            scales[task] = max(gap, LEAST_SCALE) * directions[task]
        return Scaled(self, dict(recipient), scales)


@dataclass(frozen=True)
class Scaled:
    """An objective ready to be computed: each task's origin (the recipient's score) and scale."""

    spec: Weighted
    origins: Mapping[str, float]
    scales: Mapping[str, float] = field(default_factory=dict)

    @property
    def tasks(self) -> list[str]:
        return list(self.origins)

    def value(self, means: Mapping[str, Score]) -> Score:
        """The objective of task means: numbers, or arrays of one shape (resamples)."""
        total: Any = 0.0
        for task in self.tasks:
            normalised = (means[task] - self.origins[task]) / self.scales[task]
            total = total + self.spec.weight(task) * normalised
            if (floor := (self.spec.floors or {}).get(task)) is not None:
                least = (floor - 1) * self.origins[task] / self.scales[task]
                total = total - self.spec.penalty * np.maximum(0.0, least - normalised)
        value: Any = total / sum(self.spec.weight(task) for task in self.tasks)
        return cast("Score", value if isinstance(value, np.ndarray) else float(value))
