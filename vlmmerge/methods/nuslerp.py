"""NuSLERP: the arc between two models or task vectors, by weights, as a whole or row by row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from vlmmerge.methods.forms import AddVectors, Blend, Form, RowBlend
from vlmmerge.methods.keeping import All
from vlmmerge.methods.method import WEIGHT, Draws, Parameter, Value
from vlmmerge.methods.slerp import arc
from vlmmerge.methods.statistics import Products, RowProducts, Statistics

if TYPE_CHECKING:
    import torch

# Where the cosine of the angle is nearer to 1 than this, its sine has no digits left.
_PARALLEL = 1 - 5e-13


@dataclass(frozen=True)
class NuSlerp:
    """x = sin((1-t) a) / sin(a) x_0 + sin(t a) / sin(a) x_1, with t = w_1 / (w_0 + w_1).

    x_0 is the recipient's, x_1 the donor's: their weights, or with a base their task vectors, and
    theta = theta_base + x. a is the angle between the two as flat vectors, or between each pair of
    rows (`row_wise`). Vectors without an angle, parallel ones or zeros, are mixed linearly; weights
    that cancel mean t = 1/2. After mergekit's method of this name: there is no paper. `row_wise` is
    its `nuslerp_flatten: false` (its `nuslerp_row_wise: true` goes by columns).
    """

    name: ClassVar[str] = "nuslerp"
    base: ClassVar[Literal["needed", "optional", "unused"]] = "optional"
    donors: ClassVar[tuple[int, int | None]] = (1, 1)
    per_source: ClassVar[tuple[Parameter, ...]] = (WEIGHT,)
    shared: ClassVar[tuple[Parameter, ...]] = (Parameter("row_wise", False),)

    def form(
        self,
        tensor: Statistics,
        coefficients: Sequence[Mapping[str, float]],
        shared: Mapping[str, Value],
        draws: Draws,
    ) -> Form:
        first, second = (c["weight"] for c in coefficients)
        t = second / (first + second) if first + second else 0.5
        if shared["row_wise"]:
            products = tensor.by_row(RowProducts(tensor.has_base))
            return RowBlend(arcs(products, t), tensor.has_base)
        (one, both), (_, other) = tensor.total(Products(tensor.has_base)).tolist()
        return blend(arc(one, other, both, t, _PARALLEL), tensor.has_base)


def blend(weights: Sequence[float], deltas: bool) -> Form:
    """A weighted sum of whole models, or of their task vectors."""
    if not deltas:
        return Blend(tuple(weights))
    return AddVectors(tuple(weights), (All(),) * len(weights))


def arcs(products: "torch.Tensor", t: float) -> "torch.Tensor":
    """`arc` for each of many pairs of vectors: [n, 2, 2] products to [n, 2] weights, float64."""
    import torch

    lengths = (products[:, 0, 0] * products[:, 1, 1]).sqrt()
    cosine = torch.where(lengths > 0, products[:, 0, 1] / lengths, 1.0)
    line = cosine.abs() > _PARALLEL
    angle = torch.where(line, 0.0, cosine).arccos()
    first = torch.where(line, 1 - t, ((1 - t) * angle).sin() / angle.sin())
    second = torch.where(line, t, (t * angle).sin() / angle.sin())
    return torch.stack([first, second], dim=1)
