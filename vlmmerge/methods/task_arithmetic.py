"""Task arithmetic: add weighted task vectors to their base (Ilharco et al., 2212.04089)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from vlmmerge.methods.linear import weighted_sum
from vlmmerge.methods.method import LAMBDA, WEIGHT, Draws, Parameter, Value

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TaskArithmetic:
    """theta = theta_base + lambda sum_i w_i (theta_i - theta_base)."""

    name: ClassVar[str] = "task_arithmetic"
    takes: ClassVar[Literal["weights", "deltas"]] = "deltas"
    donors: ClassVar[tuple[int, int | None]] = (1, None)
    per_source: ClassVar[tuple[Parameter, ...]] = (WEIGHT,)
    shared: ClassVar[tuple[Parameter, ...]] = (LAMBDA,)

    def merge(
        self,
        base: "torch.Tensor | None",
        sources: Sequence["torch.Tensor"],
        coefficients: Sequence[Mapping[str, float]],
        shared: Mapping[str, Value],
        draws: Draws,
    ) -> "torch.Tensor":
        assert base is not None
        total = weighted_sum(sources, [c["weight"] for c in coefficients])
        return total.mul_(float(shared["lambda"])).add_(base)
