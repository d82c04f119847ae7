"""CMA-ES: finds the optimum, within bounds, by a random generator of its own."""

import numpy as np
import pytest

from vlmmerge.errors import ConfigError
from vlmmerge.search.strategies import Vector
from vlmmerge.search.strategies.cma_es import CmaEs

OPTIMUM = np.array([0.2, 0.9, 0.5, 0.0])


def sphere(x: Vector) -> float:
    return -float(((np.array(x) - OPTIMUM) ** 2).sum())


def asked(strategy: CmaEs, rounds: int) -> list[list[Vector]]:
    batches = []
    for _ in range(rounds):
        batches.append(strategy.ask())
        strategy.tell(batches[-1], [sphere(x) for x in batches[-1]])
    return batches


def test_finds_an_optimum_that_touches_the_bounds() -> None:
    strategy = CmaEs([0.5] * 4, seed=0)
    batches = asked(strategy, 60)
    assert all(0 <= v <= 1 for batch in batches for x in batch for v in x)
    assert strategy.mean == pytest.approx(OPTIMUM, abs=0.01)


def test_is_better_than_chance() -> None:
    best = max(sphere(x) for batch in asked(CmaEs([0.5] * 4, seed=1), 15) for x in batch)
    rng = np.random.default_rng(1)
    drawn = max(sphere(tuple(rng.random(4))) for _ in range(15 * 8))
    assert best > drawn


def test_a_seed_asks_the_same_whatever_numpy_draws() -> None:
    first = asked(CmaEs([0.5] * 4, seed=3), 10)
    np.random.seed(7)  # noqa: NPY002
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    again = CmaEs([0.5] * 4, seed=3)
    assert asked(again, 10) == first
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
    assert asked(CmaEs([0.5] * 4, seed=4), 1) != first[:1]


def test_popsize_is_the_literatures() -> None:
    assert [CmaEs([0.5] * n, seed=0).batch for n in (2, 10, 30)] == [6, 10, 14]
    assert len(CmaEs([0.5] * 4, seed=0, popsize=5).ask()) == 5


def test_one_coordinate_is_enough() -> None:
    strategy = CmaEs([0.5], seed=0)
    for _ in range(30):
        vectors = strategy.ask()
        strategy.tell(vectors, [-abs(x - 0.3) for (x,) in vectors])
    assert strategy.mean == pytest.approx((0.3,), abs=0.01)


def test_failures_are_worse_than_the_worst() -> None:
    one, other = CmaEs([0.5] * 4, seed=5), CmaEs([0.5] * 4, seed=5)
    for _ in range(5):
        vectors = one.ask()
        other.ask()
        values: list[float | None] = [sphere(x) for x in vectors]
        values[2] = None
        one.tell(vectors, values)
        other.tell(vectors, [-1e9 if value is None else value for value in values])
    assert one.ask() == other.ask()


@pytest.mark.parametrize(
    ("options", "message"), [({"sigma0": 0.0}, "sigma0"), ({"popsize": 1}, "popsize")]
)
def test_bad_settings_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=f"strategy.{message}"):
        CmaEs([0.5] * 4, seed=0, **options)
