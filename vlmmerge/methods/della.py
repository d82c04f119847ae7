"""DELLA: drop elements of task vectors by chance and rank (Deep et al., 2406.11617)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from vlmmerge.errors import ConfigError
from vlmmerge.methods.dare import RESCALE
from vlmmerge.methods.forms import AddVectors, Form
from vlmmerge.methods.keeping import All, DropByRank, Keep
from vlmmerge.methods.masks import mask_key
from vlmmerge.methods.method import DENSITY, LAMBDA, NORMALIZE, WEIGHT, Draws, Parameter, Value
from vlmmerge.methods.statistics import AbsoluteSum, Statistics
from vlmmerge.methods.ties import SIGN_VOTES, elect

EPSILON = Parameter("epsilon", 0.15, 0.0, 0.5)


@dataclass(frozen=True)
class DellaLinear:
    """Task vectors are thinned by chance, small elements sooner, then added.

    1. drop: within each row of d_i, the element of rank r = 0 .. n-1 by magnitude is kept with
       probability p = density_i - epsilon_i + 2 epsilon_i r / (n - 1), which must lie in (0, 1);
       with density 1 everything is kept, whatever epsilon is;
    2. rescale: each element by 1 / p (`inverse_density`, the paper's), or all of them to the L1
       norm that d_i had (`l1_norm`), or not (`none`);
    3. theta = theta_base + lambda sum_i w_i d_i.

    The paper's epsilon is the whole width of the range, this one, as in mergekit, half; mergekit
    0.1.5 rescales by the L1 norm.
    """

    name: ClassVar[str] = "della_linear"
    base: ClassVar[Literal["needed", "optional", "unused"]] = "needed"
    donors: ClassVar[tuple[int, int | None]] = (1, None)
    per_source: ClassVar[tuple[Parameter, ...]] = (WEIGHT, DENSITY, EPSILON)
    shared: ClassVar[tuple[Parameter, ...]] = (LAMBDA, RESCALE)

    def form(
        self,
        tensor: Statistics,
        coefficients: Sequence[Mapping[str, float]],
        shared: Mapping[str, Value],
        draws: Draws,
    ) -> Form:
        weights = tuple(c["weight"] for c in coefficients)
        keeps = drops_by_rank(tensor, coefficients, str(shared["rescale"]), draws)
        return AddVectors(weights, keeps, float(shared["lambda"]))

    def check(self, coefficients: Mapping[str, Mapping[str, float]]) -> None:
        check_probabilities(coefficients)

    def range_of(self, parameter: str, values: Mapping[str, float]) -> tuple[float, float]:
        return range_of_density(parameter, values)


@dataclass(frozen=True)
class Della:
    """Task vectors are thinned by chance, small elements sooner, then merged as in TIES.

    1. drop: within each row of d_i, the element of rank r = 0 .. n-1 by magnitude is kept with
       probability p = density_i - epsilon_i + 2 epsilon_i r / (n - 1), which must lie in (0, 1);
       with density 1 everything is kept, whatever epsilon is;
    2. rescale: each element by 1 / p (`inverse_density`, the paper's), or all of them to the L1
       norm that d_i had (`l1_norm`), or not (`none`);
    3. elect signs and take the disjoint mean as in TIES;
    4. theta = theta_base + lambda mean.
    """

    name: ClassVar[str] = "della"
    base: ClassVar[Literal["needed", "optional", "unused"]] = "needed"
    donors: ClassVar[tuple[int, int | None]] = (1, None)
    per_source: ClassVar[tuple[Parameter, ...]] = (WEIGHT, DENSITY, EPSILON)
    shared: ClassVar[tuple[Parameter, ...]] = (LAMBDA, NORMALIZE, SIGN_VOTES, RESCALE)

    def form(
        self,
        tensor: Statistics,
        coefficients: Sequence[Mapping[str, float]],
        shared: Mapping[str, Value],
        draws: Draws,
    ) -> Form:
        keeps = drops_by_rank(tensor, coefficients, str(shared["rescale"]), draws)
        return elect(coefficients, keeps, shared)

    def check(self, coefficients: Mapping[str, Mapping[str, float]]) -> None:
        check_probabilities(coefficients)

    def range_of(self, parameter: str, values: Mapping[str, float]) -> tuple[float, float]:
        return range_of_density(parameter, values)


def check_probabilities(coefficients: Mapping[str, Mapping[str, float]]) -> None:
    """Raise `ConfigError` where a source's probabilities do not lie in (0, 1)."""
    for source, values in coefficients.items():
        density, epsilon = values["density"], values["epsilon"]
        if density < 1 and not (density - epsilon > 0 and density + epsilon < 1):
            raise ConfigError(
                f"coefficients.{source}: density {density:g} -+ epsilon {epsilon:g} must lie in"
                " (0, 1); lower epsilon, or give density 1 to keep everything"
            )


def range_of_density(parameter: str, values: Mapping[str, float]) -> tuple[float, float]:
    """Densities whose probabilities lie in [0.01, 0.99]: what stays is divided by them."""
    if parameter != "density":
        return -math.inf, math.inf
    return values["epsilon"] + 0.01, 0.99 - values["epsilon"]


def drops_by_rank(
    tensor: Statistics, coefficients: Sequence[Mapping[str, float]], rescale: str, draws: Draws
) -> tuple[Keep, ...]:
    """Steps 1 and 2: what of each source stays, and how it is rescaled."""
    return tuple(
        _drop(tensor, i, c, rescale, mask_key(draws.seed, name, draws.tensor))
        for i, (c, name) in enumerate(zip(coefficients, draws.sources, strict=True))
    )


def _drop(
    tensor: Statistics, source: int, values: Mapping[str, float], rescale: str, key: tuple[int, int]
) -> Keep:
    density, epsilon = values["density"], values["epsilon"]
    if density >= 1:
        return All()
    if tensor.columns == 1:  # one rank, which is the middle
        epsilon = 0.0
    drop = DropByRank(key, density - epsilon, density + epsilon, rescale == "inverse_density")
    if rescale == "l1_norm":
        before, after = tensor.total(AbsoluteSum(source, drop)).tolist()
        return replace(drop, scale=before / after) if after > 0 else drop
    return drop
