"""Linear merging, or model soups: a weighted mean of weights (Wortsman et al., 2203.05482)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from vlmmerge.methods.forms import Blend, Form
from vlmmerge.methods.method import NORMALIZE, WEIGHT, Draws, Parameter, Value
from vlmmerge.methods.statistics import Statistics


@dataclass(frozen=True)
class Linear:
    """theta = sum_i w_i theta_i / sum_i w_i, or without the division where `normalize` is false.

    Weights that cancel have no mean: the sum is then kept as it is.
    """

    name: ClassVar[str] = "linear"
    base: ClassVar[Literal["needed", "optional", "unused"]] = "unused"
    donors: ClassVar[tuple[int, int | None]] = (1, None)
    per_source: ClassVar[tuple[Parameter, ...]] = (WEIGHT,)
    shared: ClassVar[tuple[Parameter, ...]] = (NORMALIZE,)

    def form(
        self,
        tensor: Statistics,
        coefficients: Sequence[Mapping[str, float]],
        shared: Mapping[str, Value],
        draws: Draws,
    ) -> Form:
        weights = [c["weight"] for c in coefficients]
        total = sum(weights) if shared["normalize"] else 1.0
        return Blend(tuple(w / (total or 1.0) for w in weights))
