"""TIES: trim, elect signs, take the disjoint mean (Yadav et al., 2306.01708)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

from vlmmerge.methods.forms import Elect, Form
from vlmmerge.methods.keeping import All, Keep, Top
from vlmmerge.methods.method import DENSITY, LAMBDA, NORMALIZE, WEIGHT, Draws, Parameter, Value
from vlmmerge.methods.statistics import Magnitude, Scope, Statistics

SIGN_VOTES = Parameter("sign_votes", "weighted", choices=("weighted", "unweighted"))
TRIM_SCOPE = Parameter("trim_scope", "tensor", choices=("tensor", "model"))


@dataclass(frozen=True)
class Ties:
    """Task vectors are trimmed to their largest elements, then merged where they agree in sign.

    1. trim: d_i keeps its max(1, floor(density_i n)) largest |elements|, n those of each tensor or
       (`trim_scope: model`, the paper's) of all tensors together;
    2. elect: s = sign(sum_i v_i) with votes v_i = w_i d_i, or v_i = d_i (`sign_votes: unweighted`,
       the paper's);
    3. mean: sum of w_i d_i over {i: sign(v_i) = s}, divided by the sum of their w_i (`normalize`);
    4. theta = theta_base + lambda mean.
    """

    name: ClassVar[str] = "ties"
    base: ClassVar[Literal["needed", "optional", "unused"]] = "needed"
    donors: ClassVar[tuple[int, int | None]] = (1, None)
    per_source: ClassVar[tuple[Parameter, ...]] = (WEIGHT, DENSITY)
    shared: ClassVar[tuple[Parameter, ...]] = (LAMBDA, NORMALIZE, SIGN_VOTES, TRIM_SCOPE)

    def form(
        self,
        tensor: Statistics,
        coefficients: Sequence[Mapping[str, float]],
        shared: Mapping[str, Value],
        draws: Draws,
    ) -> Form:
        scope = cast(Scope, shared["trim_scope"])
        keeps = [trim(tensor, i, c["density"], scope) for i, c in enumerate(coefficients)]
        return elect(coefficients, keeps, shared)


def trim(tensor: Statistics, source: int, density: float, scope: Scope = "tensor") -> Keep:
    """Keep the largest elements of one source's task vector."""
    if density >= 1:
        return All()
    return Top(tensor.cut(Magnitude(source), density, scope))


def elect(
    coefficients: Sequence[Mapping[str, float]],
    keeps: Sequence[Keep],
    shared: Mapping[str, Value],
) -> Elect:
    """Steps 2 to 4 of TIES, over task vectors that are thinned in whatever way."""
    weights = tuple(c["weight"] for c in coefficients)
    votes = weights if shared["sign_votes"] == "weighted" else (1.0,) * len(weights)
    normalize = bool(shared["normalize"])
    return Elect(weights, votes, tuple(keeps), normalize, float(shared["lambda"]))
