"""DARE: drop elements of task vectors at random and rescale the rest (Yu et al., 2311.03099)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from vlmmerge.methods.forms import AddVectors, Form
from vlmmerge.methods.keeping import All, Drop, Keep
from vlmmerge.methods.masks import mask_key
from vlmmerge.methods.method import DENSITY, LAMBDA, NORMALIZE, WEIGHT, Draws, Parameter, Value
from vlmmerge.methods.statistics import AbsoluteSum, Statistics
from vlmmerge.methods.ties import SIGN_VOTES, elect

RESCALE = Parameter("rescale", "inverse_density", choices=("inverse_density", "l1_norm", "none"))


@dataclass(frozen=True)
class DareLinear:
    """Task vectors are thinned at random, then added.

    1. drop: each element of d_i is kept with probability density_i;
    2. rescale: d_i / density_i (the paper's), or to the L1 norm it had, or not;
    3. theta = theta_base + lambda sum_i w_i d_i.
    """

    name: ClassVar[str] = "dare_linear"
    base: ClassVar[Literal["needed", "optional", "unused"]] = "needed"
    donors: ClassVar[tuple[int, int | None]] = (1, None)
    per_source: ClassVar[tuple[Parameter, ...]] = (WEIGHT, DENSITY)
    shared: ClassVar[tuple[Parameter, ...]] = (LAMBDA, RESCALE)

    def form(
        self,
        tensor: Statistics,
        coefficients: Sequence[Mapping[str, float]],
        shared: Mapping[str, Value],
        draws: Draws,
    ) -> Form:
        weights = tuple(c["weight"] for c in coefficients)
        keeps = drops(tensor, coefficients, str(shared["rescale"]), draws)
        return AddVectors(weights, keeps, float(shared["lambda"]))


@dataclass(frozen=True)
class DareTies:
    """Task vectors are thinned at random, then merged as in TIES.

    1. drop: each element of d_i is kept with probability density_i;
    2. rescale: d_i / density_i (the paper's), or to the L1 norm it had, or not;
    3. elect signs and take the disjoint mean as in TIES;
    4. theta = theta_base + lambda mean.
    """

    name: ClassVar[str] = "dare_ties"
    base: ClassVar[Literal["needed", "optional", "unused"]] = "needed"
    donors: ClassVar[tuple[int, int | None]] = (1, None)
    per_source: ClassVar[tuple[Parameter, ...]] = (WEIGHT, DENSITY)
    shared: ClassVar[tuple[Parameter, ...]] = (LAMBDA, NORMALIZE, SIGN_VOTES, RESCALE)

    def form(
        self,
        tensor: Statistics,
        coefficients: Sequence[Mapping[str, float]],
        shared: Mapping[str, Value],
        draws: Draws,
    ) -> Form:
        keeps = drops(tensor, coefficients, str(shared["rescale"]), draws)
        return elect(coefficients, keeps, shared)


def drops(
    tensor: Statistics, coefficients: Sequence[Mapping[str, float]], rescale: str, draws: Draws
) -> tuple[Keep, ...]:
    """Steps 1 and 2: what of each source stays, and how it is rescaled."""
    return tuple(
        _drop(tensor, i, c["density"], rescale, mask_key(draws.seed, name, draws.tensor))
        for i, (c, name) in enumerate(zip(coefficients, draws.sources, strict=True))
    )


def _drop(
    tensor: Statistics, source: int, density: float, rescale: str, key: tuple[int, int]
) -> Keep:
    if density >= 1:
        return All()
    if rescale == "inverse_density":
        return Drop(key, density, 1 / density)
    drop = Drop(key, density)
    if rescale == "l1_norm":
        before, after = tensor.total(AbsoluteSum(source, drop)).tolist()
        return replace(drop, scale=before / after) if after > 0 else drop
    return drop
