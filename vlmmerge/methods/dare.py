"""DARE: drop elements of task vectors at random and rescale the rest (Yu et al., 2311.03099)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from vlmmerge.methods.masks import mask_key, uniform
from vlmmerge.methods.method import DENSITY, LAMBDA, WEIGHT, Draws, Parameter, Value
from vlmmerge.methods.ties import NORMALIZE, SIGN_VOTES, disjoint_mean

if TYPE_CHECKING:
    import torch

RESCALE = Parameter("rescale", "inverse_density", choices=("inverse_density", "l1_norm", "none"))


@dataclass(frozen=True)
class DareTies:
    """Task vectors are thinned at random, then merged as in TIES.

    1. drop: each element of d_i is kept with probability density_i;
    2. rescale: d_i / density_i (the paper's), or to the L1 norm it had, or not;
    3. elect signs and take the disjoint mean as in TIES;
    4. theta = theta_base + lambda mean.
    """

    name: ClassVar[str] = "dare_ties"
    takes: ClassVar[Literal["weights", "deltas"]] = "deltas"
    donors: ClassVar[tuple[int, int | None]] = (1, None)
    per_source: ClassVar[tuple[Parameter, ...]] = (WEIGHT, DENSITY)
    shared: ClassVar[tuple[Parameter, ...]] = (LAMBDA, NORMALIZE, SIGN_VOTES, RESCALE)

    def merge(
        self,
        base: "torch.Tensor | None",
        sources: Sequence["torch.Tensor"],
        coefficients: Sequence[Mapping[str, float]],
        shared: Mapping[str, Value],
        draws: Draws,
    ) -> "torch.Tensor":
        assert base is not None
        dropped = [
            drop(delta, c["density"], str(shared["rescale"]), name, draws)
            for delta, c, name in zip(sources, coefficients, draws.sources, strict=True)
        ]
        return base + float(shared["lambda"]) * disjoint_mean(dropped, coefficients, shared)


def drop(
    delta: "torch.Tensor", density: float, rescale: str, source: str, draws: Draws
) -> "torch.Tensor":
    """Keep each element with probability `density` and rescale what is left."""
    if density >= 1:
        return delta
    key = mask_key(draws.seed, source, draws.tensor)
    kept = uniform(key, draws.first, delta.numel(), delta.device).reshape(delta.shape) < density
    thinned = delta * kept
    if rescale == "inverse_density":
        return thinned / density
    if rescale == "l1_norm":
        left = thinned.abs().sum()
        return thinned * (delta.abs().sum() / left) if left > 0 else thinned
    return thinned
