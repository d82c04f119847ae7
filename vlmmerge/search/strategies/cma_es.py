"""CMA-ES by pycma, within bounds, with a random generator of its own (Hansen, 1604.00772)."""

import math
from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np

from vlmmerge.errors import ConfigError
from vlmmerge.search.strategies.strategy import Vector


class CmaEs:
    """Covariance matrix adaptation in [0,1]^n from `start`.

    `sigma0`: the first step, in units of the range; 1/6 as in the evolutionary-merging paper.
    `popsize`: null for 4 + floor(3 ln n).
    """

    def __init__(
        self,
        start: Sequence[float],
        seed: int,
        sigma0: float = 1 / 6,
        popsize: int | None = None,
    ) -> None:
        if not 0 < sigma0 <= 1:
            raise ConfigError(f"strategy.sigma0: {sigma0} is not in (0, 1]")
        if popsize is not None and popsize < 2:
            raise ConfigError(f"strategy.popsize: {popsize} is not 2 or more")
        import cma

        self.batch = popsize or 4 + math.floor(3 * math.log(len(start)))
        generator = np.random.default_rng(seed)
        # pycma draws from numpy's global state unless given `randn` and a seed that is no number.
        self._es = cma.CMAEvolutionStrategy(
            # One coordinate is beyond CMA: a second, that nothing reads, stands beside it.
            [*start, 0.5] if len(start) == 1 else list(start),
            sigma0,
            {
                "bounds": [0, 1],
                "popsize": self.batch,
                "seed": math.nan,
                "randn": lambda *shape: generator.standard_normal(shape),
                "verbose": -9,
            },
        )
        self._n = len(start)
        self._asked: list[np.ndarray] = []

    @property
    def mean(self) -> Vector:
        return self._vector(self._es.result.xfavorite)

    @property
    def done(self) -> bool:
        return bool(self._es.stop())

    def ask(self) -> list[Vector]:
        self._asked = self._es.ask()
        return [self._vector(x) for x in self._asked]

    def tell(self, vectors: Sequence[Vector], values: Sequence[float | None]) -> None:
        known = [value for value in values if value is not None]
        # CMA ranks: a failure is worse than the worst, by how much does not matter.
        worst = min(known, default=0.0) - 1.0
        costs = [-(worst if value is None else value) for value in values]
        self._es.tell(self._asked, costs)

    def _vector(self, x: Iterable[float]) -> Vector:
        return tuple(float(value) for value in islice(x, self._n))
