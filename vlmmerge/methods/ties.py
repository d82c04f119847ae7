"""TIES: trim, elect signs, take the disjoint mean (Yadav et al., 2306.01708)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from vlmmerge.methods.linear import weighted_sum
from vlmmerge.methods.method import DENSITY, LAMBDA, WEIGHT, Draws, Parameter, Value

if TYPE_CHECKING:
    import torch

NORMALIZE = Parameter("normalize", True)
SIGN_VOTES = Parameter("sign_votes", "weighted", choices=("weighted", "unweighted"))


@dataclass(frozen=True)
class Ties:
    """Task vectors are trimmed to their largest elements, then merged where they agree in sign.

    1. trim: d_i keeps its max(1, floor(density_i n)) largest |elements|, in each tensor;
    2. elect: s = sign(sum_i v_i) with votes v_i = w_i d_i, or v_i = d_i (`sign_votes: unweighted`,
       the paper's);
    3. mean: sum of w_i d_i over {i: sign(v_i) = s}, divided by the sum of their w_i (`normalize`);
    4. theta = theta_base + lambda mean.
    """

    name: ClassVar[str] = "ties"
    takes: ClassVar[Literal["weights", "deltas"]] = "deltas"
    donors: ClassVar[tuple[int, int | None]] = (1, None)
    per_source: ClassVar[tuple[Parameter, ...]] = (WEIGHT, DENSITY)
    shared: ClassVar[tuple[Parameter, ...]] = (LAMBDA, NORMALIZE, SIGN_VOTES)

    def merge(
        self,
        base: "torch.Tensor | None",
        sources: Sequence["torch.Tensor"],
        coefficients: Sequence[Mapping[str, float]],
        shared: Mapping[str, Value],
        draws: Draws,
    ) -> "torch.Tensor":
        assert base is not None
        trimmed = [trim(d, c["density"]) for d, c in zip(sources, coefficients, strict=True)]
        return base + float(shared["lambda"]) * disjoint_mean(trimmed, coefficients, shared)


def trim(delta: "torch.Tensor", density: float) -> "torch.Tensor":
    """Zero all but the k = max(1, floor(density n)) elements of largest magnitude.

    Of equal magnitudes at the threshold the first by index survive.
    """
    import torch

    n = delta.numel()
    k = max(1, math.floor(density * n))
    if k >= n:
        return delta
    size = delta.abs().reshape(-1)
    threshold = torch.kthvalue(size, n - k + 1).values
    keep = size > threshold
    ties = torch.nonzero(size == threshold).reshape(-1)
    keep[ties[: k - int(keep.sum())]] = True
    return delta * keep.reshape(delta.shape)


def disjoint_mean(
    deltas: Sequence["torch.Tensor"],
    coefficients: Sequence[Mapping[str, float]],
    shared: Mapping[str, Value],
) -> "torch.Tensor":
    """Steps 2 and 3 of TIES. A zero vote counts as positive, a zero sum of weights as 1."""
    import torch

    weights = [c["weight"] for c in coefficients]
    ballots = weights if shared["sign_votes"] == "weighted" else [1.0] * len(weights)
    votes = weighted_sum(deltas, ballots)
    positive = votes >= 0
    total, divisor = torch.zeros_like(votes), torch.zeros_like(votes)
    for delta, weight, ballot in zip(deltas, weights, ballots, strict=True):
        vote = delta * ballot
        agrees = torch.where(positive, vote > 0, vote < 0)
        total.add_(delta * agrees, alpha=weight)
        divisor.add_(agrees, alpha=weight)
    if shared["normalize"]:
        total /= torch.where(divisor == 0, torch.ones_like(divisor), divisor)
    return total
