"""Arcee Fusion: take over the donor's elements that stand out (Arcee, mergekit 0.1, 2025)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from vlmmerge.methods.forms import Form
from vlmmerge.methods.method import Draws, Parameter, Value
from vlmmerge.methods.operands import Chunk
from vlmmerge.methods.statistics import Quantity, Statistics

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ArceeFusion:
    """theta = theta_1 where an element's importance stands out, theta_0 elsewhere.

    1. importance I = |theta_1 - theta_0| KL(softmax(theta_1) || softmax(theta_0)), the divergence
       taken of each row;
    2. an element stands out where I > median + 1.5 (Q3 - Q1), the quartiles of the tensor's I.

    theta_0 is the recipient, theta_1 the donor. A vector is one row.
    """

    name: ClassVar[str] = "arcee_fusion"
    base: ClassVar[Literal["needed", "optional", "unused"]] = "unused"
    donors: ClassVar[tuple[int, int | None]] = (1, 1)
    per_source: ClassVar[tuple[Parameter, ...]] = ()
    shared: ClassVar[tuple[Parameter, ...]] = ()

    def form(
        self,
        tensor: Statistics,
        coefficients: Sequence[Mapping[str, float]],
        shared: Mapping[str, Value],
        draws: Draws,
    ) -> Form:
        first, middle, third = (quantile(tensor, Importance(), q) for q in (0.25, 0.5, 0.75))
        return Fused(middle + 1.5 * (third - first))


@dataclass(frozen=True)
class Importance:
    """The importance of every element of the donor's: float32 [rows, columns]."""

    def of(self, chunk: Chunk) -> "torch.Tensor":
        mine, theirs = (x.double() for x in chunk.sources)
        p, q = theirs.log_softmax(-1), mine.log_softmax(-1)
        divergence = (p.exp() * (p - q)).sum(-1, keepdim=True).clamp(min=0)
        return ((theirs - mine).abs() * divergence).float()


@dataclass(frozen=True)
class Fused:
    """The donor's elements whose importance is above `threshold`, the recipient's elsewhere."""

    threshold: float

    def apply(self, chunk: Chunk) -> "torch.Tensor":
        import torch

        mine, theirs = chunk.sources
        return torch.where(Importance().of(chunk) > self.threshold, theirs, mine)


def quantile(tensor: Statistics, magnitude: Quantity, q: float) -> float:
    """The q-quantile of a tensor's magnitudes, interpolated between the two next to it."""
    place = q * (tensor.rows * tensor.columns - 1)
    low, high = (_in_order(tensor, magnitude, round_(place)) for round_ in (math.floor, math.ceil))
    return low + (high - low) * (place - math.floor(place))


def _in_order(tensor: Statistics, magnitude: Quantity, place: int) -> float:
    """The magnitude at `place`, counted from 0 in ascending order."""
    n = tensor.rows * tensor.columns
    if place == 0:  # there is no cut below all
        return float(tensor.by_row(magnitude).min())
    return tensor.cut(magnitude, (n - place + 0.5) / n).threshold
