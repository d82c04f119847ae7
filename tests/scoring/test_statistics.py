"""Bootstrap intervals: cover as often as they say, paired where they should be."""

import numpy as np
import pytest

from vlmmerge.scoring import Bootstrap, interval


def test_mean_and_spread_are_those_of_the_mean() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(400)
    resampled = Bootstrap({"t": [str(i) for i in range(400)]}).means("t", list(scores))
    assert resampled.mean() == pytest.approx(scores.mean(), abs=0.002)
    assert resampled.std() == pytest.approx(scores.std() / 20, rel=0.08)


def test_intervals_cover() -> None:
    rng = np.random.default_rng(1)
    bootstrap = Bootstrap({"t": [str(i) for i in range(100)]})
    covered = 0
    for _ in range(200):
        scores = (rng.random(100) < 0.3).astype(float)
        found = interval(scores.mean(), bootstrap.means("t", list(scores)))
        covered += found.low <= 0.3 <= found.high
    assert 175 <= covered <= 200


def test_rows_of_one_picture_are_drawn_together() -> None:
    """Four copies of each of 50 rows say no more than the 50 do."""
    rng = np.random.default_rng(2)
    scores = rng.random(50)
    units = [str(i) for i in range(50)]
    once = Bootstrap({"t": units}).means("t", list(scores)).std()
    copied = Bootstrap({"t": units * 4}).means("t", list(scores) * 4).std()
    assert copied == pytest.approx(once, rel=0.1)


def test_tasks_that_share_pictures_move_together() -> None:
    rng = np.random.default_rng(3)
    scores = list(rng.random(100))
    units = [str(i) for i in range(100)]
    shared = Bootstrap({"a": units, "b": units})
    assert np.allclose(shared.means("a", scores), shared.means("b", scores))
    apart = Bootstrap({"a": units, "b": [f"x{u}" for u in units]})
    correlation = np.corrcoef(apart.means("a", scores), apart.means("b", scores))[0, 1]
    assert abs(correlation) < 0.1


def test_the_seed_decides() -> None:
    units = {"t": [str(i) for i in range(20)]}
    scores = [float(i % 3) for i in range(20)]
    first, again = (Bootstrap(units, 5).means("t", scores) for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, Bootstrap(units, 6).means("t", scores))
