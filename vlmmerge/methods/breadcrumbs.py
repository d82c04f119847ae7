"""Model Breadcrumbs: drop the smallest and the largest of task vectors (Davari, 2312.06795)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from vlmmerge.methods.forms import AddVectors, Form
from vlmmerge.methods.keeping import NO_CUT, All, Band, Cut, Keep
from vlmmerge.methods.method import DENSITY, LAMBDA, NORMALIZE, WEIGHT, Draws, Parameter, Value
from vlmmerge.methods.statistics import Magnitude, Statistics
from vlmmerge.methods.ties import SIGN_VOTES, elect

GAMMA = Parameter("gamma", 0.01, 0.0, 1.0)


@dataclass(frozen=True)
class Breadcrumbs:
    """Task vectors are cut at both ends, then added.

    1. mask: of the n elements of d_i in a tensor the floor(gamma_i n) largest by magnitude are
       dropped, and so many of the smallest that k = max(1, floor(density_i n)) stay. Where k leaves
       less than floor(gamma_i n) to drop, only so many of the largest are dropped, and none else;
    2. theta = theta_base + lambda sum_i w_i d_i.

    In the paper's words the top is gamma and the bottom is beta = 1 - density - gamma.
    """

    name: ClassVar[str] = "breadcrumbs"
    base: ClassVar[Literal["needed", "optional", "unused"]] = "needed"
    donors: ClassVar[tuple[int, int | None]] = (1, None)
    per_source: ClassVar[tuple[Parameter, ...]] = (WEIGHT, DENSITY, GAMMA)
    shared: ClassVar[tuple[Parameter, ...]] = (LAMBDA,)

    def form(
        self,
        tensor: Statistics,
        coefficients: Sequence[Mapping[str, float]],
        shared: Mapping[str, Value],
        draws: Draws,
    ) -> Form:
        weights = tuple(c["weight"] for c in coefficients)
        return AddVectors(weights, bands(tensor, coefficients), float(shared["lambda"]))


@dataclass(frozen=True)
class BreadcrumbsTies:
    """Task vectors are cut at both ends, then merged as in TIES.

    1. mask: of the n elements of d_i in a tensor the floor(gamma_i n) largest by magnitude are
       dropped, and so many of the smallest that k = max(1, floor(density_i n)) stay;
    2. elect signs and take the disjoint mean as in TIES;
    3. theta = theta_base + lambda mean.
    """

    name: ClassVar[str] = "breadcrumbs_ties"
    base: ClassVar[Literal["needed", "optional", "unused"]] = "needed"
    donors: ClassVar[tuple[int, int | None]] = (1, None)
    per_source: ClassVar[tuple[Parameter, ...]] = (WEIGHT, DENSITY, GAMMA)
    shared: ClassVar[tuple[Parameter, ...]] = (LAMBDA, NORMALIZE, SIGN_VOTES)

    def form(
        self,
        tensor: Statistics,
        coefficients: Sequence[Mapping[str, float]],
        shared: Mapping[str, Value],
        draws: Draws,
    ) -> Form:
        return elect(coefficients, bands(tensor, coefficients), shared)


def bands(tensor: Statistics, coefficients: Sequence[Mapping[str, float]]) -> tuple[Keep, ...]:
    """Step 1: what of each source's task vector stays."""
    return tuple(_band(tensor, i, c["density"], c["gamma"]) for i, c in enumerate(coefficients))


def _band(tensor: Statistics, source: int, density: float, gamma: float) -> Keep:
    n = tensor.rows * tensor.columns
    kept = max(1, math.floor(density * n))
    largest = min(math.floor(gamma * n), n - kept)
    least, most = (largest_of(tensor, source, count) for count in (largest + kept, largest))
    return All() if least == NO_CUT and largest == 0 else Band(least, most)


def largest_of(tensor: Statistics, source: int, count: int) -> Cut:
    """The cut above which just `count` elements of a source's task vector are, 0 to n."""
    if count == 0:
        return Cut(math.inf)
    # Half an element more: the count that comes of the density is this one, however it is rounded.
    return tensor.cut(Magnitude(source), (count + 0.5) / (tensor.rows * tensor.columns))
