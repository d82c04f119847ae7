"""Model Stock: as far towards the mean as the angles say (Jang et al., 2403.19522)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from vlmmerge.methods.forms import Form, RowBlend
from vlmmerge.methods.method import Draws, Parameter, Value
from vlmmerge.methods.nuslerp import blend
from vlmmerge.methods.statistics import Products, RowProducts, Statistics

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ModelStock:
    """theta = theta_base + t mean_i d_i, with t = N cos / (1 + (N - 1) cos).

    N counts the sources; cos is the mean cosine of the angles between pairs of task vectors, each
    as one flat vector, or row by row (`filter_wise`). A vector of zeros has the cosine 0 with all.
    """

    name: ClassVar[str] = "model_stock"
    base: ClassVar[Literal["needed", "optional", "unused"]] = "needed"
    donors: ClassVar[tuple[int, int | None]] = (1, None)
    per_source: ClassVar[tuple[Parameter, ...]] = ()
    shared: ClassVar[tuple[Parameter, ...]] = (Parameter("filter_wise", False),)

    def form(
        self,
        tensor: Statistics,
        coefficients: Sequence[Mapping[str, float]],
        shared: Mapping[str, Value],
        draws: Draws,
    ) -> Form:
        count = len(coefficients)
        if shared["filter_wise"]:
            t = ratio(tensor.by_row(RowProducts(deltas=True)))
            return RowBlend((t / count).unsqueeze(1).expand(-1, count), deltas=True)
        t = ratio(tensor.total(Products(deltas=True)))
        return blend([float(t) / count] * count, deltas=True)


def ratio(products: "torch.Tensor") -> "torch.Tensor":
    """t, from the scalar products [..., k, k] of k task vectors."""
    import torch

    count = products.shape[-1]
    lengths = products.diagonal(dim1=-2, dim2=-1).sqrt()
    both = lengths.unsqueeze(-1) * lengths.unsqueeze(-2)
    cosines = torch.where(both > 0, products / both, 0.0)
    own = cosines.diagonal(dim1=-2, dim2=-1).sum(-1)
    cosine = (cosines.sum((-2, -1)) - own) / (count * (count - 1))
    whole = 1 + (count - 1) * cosine
    # Vectors that cancel, of which no share of the mean is best, stay out.
    return torch.where(whole.abs() > 1e-12, count * cosine / whole, 0.0)
