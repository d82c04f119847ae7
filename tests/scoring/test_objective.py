"""The objective: recipient at 0, the best donor at 1 a task, floors that cost."""

import numpy as np
import pytest

from vlmmerge.errors import ConfigError
from vlmmerge.scoring import Weighted

RECIPIENT = {"ja": 0.0, "en": 0.9}
DONORS = {"a": {"ja": 0.5, "en": 0.7}, "b": {"ja": 0.4, "en": 0.6}}
UP = {"ja": True, "en": True}


def test_scales_are_the_parents() -> None:
    objective = Weighted().fit(RECIPIENT, DONORS, UP)
    assert objective.value(RECIPIENT) == 0.0
    assert objective.value({"ja": 0.5, "en": 0.9}) == pytest.approx(0.5)
    # Both tasks: (0.5 / 0.5 + (0.7 - 0.9) / 0.2) / 2
    assert objective.value(DONORS["a"]) == pytest.approx(0.0)


def test_level_parents_have_the_least_scale() -> None:
    objective = Weighted().fit({"en": 0.9}, {"a": {"en": 0.9}}, {"en": True})
    assert objective.value({"en": 0.95}) == pytest.approx(1.0)


def test_lower_may_be_better() -> None:
    objective = Weighted().fit({"loss": 4.0}, {"a": {"loss": 3.0}}, {"loss": False})
    assert objective.value({"loss": 3.5}) == pytest.approx(0.5)
    assert objective.value({"loss": 5.0}) == pytest.approx(-1.0)


def test_weights_weigh() -> None:
    objective = Weighted(weights={"ja": 3.0}).fit(RECIPIENT, DONORS, UP)
    assert objective.value({"ja": 0.5, "en": 0.9}) == pytest.approx(0.75)
    assert Weighted(weights={"ja": 0}).searched(UP) == ["en"]


def test_floors_cost_only_below() -> None:
    free = Weighted().fit(RECIPIENT, DONORS, UP)
    floored = Weighted(floors={"en": 0.9}, penalty=4.0).fit(RECIPIENT, DONORS, UP)
    above, below = {"ja": 0.5, "en": 0.82}, {"ja": 0.5, "en": 0.79}
    assert floored.value(above) == pytest.approx(free.value(above))
    # 0.02 below the floor of 0.81, in units of the scale 0.2, four times, over two tasks.
    assert free.value(below) - floored.value(below) == pytest.approx(4 * 0.1 / 2)


def test_values_of_resamples_are_values() -> None:
    objective = Weighted(floors={"en": 0.95}).fit(RECIPIENT, DONORS, UP)
    means = [{"ja": 0.1, "en": 0.9}, {"ja": 0.4, "en": 0.8}, {"ja": 0.2, "en": 0.5}]
    arrays = {task: np.array([m[task] for m in means]) for task in UP}
    assert objective.value(arrays).tolist() == pytest.approx([objective.value(m) for m in means])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": {"jaa": 1}}, "did you mean ja"),
        ({"floors": {"xx": 1}}, "unknown 'xx'"),
        ({"weights": {"ja": -1}}, "objective.weights.ja"),
        ({"weights": {"ja": True}}, "objective.weights.ja"),
        ({"weights": {"ja": 0, "en": 0}}, "no task has a weight"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Weighted(**settings).searched(UP)  # type: ignore[arg-type]
