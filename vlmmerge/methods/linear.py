"""Linear merging, or model soups: a weighted mean of weights (Wortsman et al., 2203.05482)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from vlmmerge.methods.method import WEIGHT, Draws, Parameter, Value

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Linear:
    """theta = sum_i w_i theta_i / sum_i w_i, or without the division where `normalize` is false."""

    name: ClassVar[str] = "linear"
    takes: ClassVar[Literal["weights", "deltas"]] = "weights"
    donors: ClassVar[tuple[int, int | None]] = (1, None)
    per_source: ClassVar[tuple[Parameter, ...]] = (WEIGHT,)
    shared: ClassVar[tuple[Parameter, ...]] = (Parameter("normalize", True),)

    def merge(
        self,
        base: "torch.Tensor | None",
        sources: Sequence["torch.Tensor"],
        coefficients: Sequence[Mapping[str, float]],
        shared: Mapping[str, Value],
        draws: Draws,
    ) -> "torch.Tensor":
        weights = [c["weight"] for c in coefficients]
        merged = weighted_sum(sources, weights)
        # Weights that cancel have no mean: the sum is kept as it is.
        total = sum(weights)
        return merged / total if shared["normalize"] and total != 0 else merged


def weighted_sum(tensors: Sequence["torch.Tensor"], weights: Sequence[float]) -> "torch.Tensor":
    """sum_i w_i x_i, in the order given."""
    total = tensors[0] * weights[0]
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        total.add_(tensor, alpha=weight)
    return total
