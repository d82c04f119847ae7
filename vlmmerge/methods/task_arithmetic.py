"""Task arithmetic: add weighted task vectors to their base (Ilharco et al., 2212.04089)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from vlmmerge.methods.forms import AddVectors, Form
from vlmmerge.methods.keeping import All
from vlmmerge.methods.method import LAMBDA, WEIGHT, Draws, Parameter, Value
from vlmmerge.methods.statistics import Statistics


@dataclass(frozen=True)
class TaskArithmetic:
    """theta = theta_base + lambda sum_i w_i (theta_i - theta_base)."""

    name: ClassVar[str] = "task_arithmetic"
    base: ClassVar[Literal["needed", "optional", "unused"]] = "needed"
    donors: ClassVar[tuple[int, int | None]] = (1, None)
    per_source: ClassVar[tuple[Parameter, ...]] = (WEIGHT,)
    shared: ClassVar[tuple[Parameter, ...]] = (LAMBDA,)

    def form(
        self,
        tensor: Statistics,
        coefficients: Sequence[Mapping[str, float]],
        shared: Mapping[str, Value],
        draws: Draws,
    ) -> Form:
        weights = tuple(c["weight"] for c in coefficients)
        return AddVectors(weights, (All(),) * len(weights), float(shared["lambda"]))
