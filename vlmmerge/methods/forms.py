"""Forms: what a merge of one tensor comes to, once its coefficients and statistics are numbers.

A form is a small frozen dataclass that makes merged rows of source rows, row by row and without
looking at others. Its `apply`, in plain PyTorch, says what it means and runs on any device;
`kernels` has fused loops for the forms below that give the same numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from vlmmerge.methods.keeping import Keep
from vlmmerge.methods.operands import Chunk

if TYPE_CHECKING:
    import torch


class Form(Protocol):
    def apply(self, chunk: Chunk) -> "torch.Tensor":
        """The merged rows, float32 [rows, columns]."""
        ...


@dataclass(frozen=True)
class Blend:
    """sum_i w_i theta_i: weights of whole models, one number each.

    Terms are added in order, each product and each sum rounded to float32.
    """

    weights: tuple[float, ...]

    def apply(self, chunk: Chunk) -> "torch.Tensor":
        return weighted_sum(chunk.sources, self.weights)


@dataclass(frozen=True)
class RowBlend:
    """sum_i w_i theta_i row by row, or theta_base + sum_i w_i d_i (`deltas`).

    `weights` [rows, sources] has a number for every row of the tensor.
    """

    weights: "torch.Tensor"
    deltas: bool = False

    def apply(self, chunk: Chunk) -> "torch.Tensor":
        found = chunk.deltas if self.deltas else chunk.sources
        weights = self.weights[chunk.first : chunk.last].to(found[0])
        total = found[0] * weights[:, :1]
        for i, x in enumerate(found[1:], 1):
            total += x * weights[:, i : i + 1]
        return chunk.base + total if self.deltas else total


@dataclass(frozen=True)
class Base:
    """theta_base, as it is."""

    def apply(self, chunk: Chunk) -> "torch.Tensor":
        return chunk.base


@dataclass(frozen=True)
class AddVectors:
    """theta_base + scale sum_i w_i keep_i(d_i): task vectors, thinned, weighted, added."""

    weights: tuple[float, ...]
    keeps: tuple[Keep, ...]
    scale: float = 1.0

    def apply(self, chunk: Chunk) -> "torch.Tensor":
        total = weighted_sum(kept(self.keeps, chunk), self.weights)
        return chunk.base + total * self.scale


@dataclass(frozen=True)
class Elect:
    """theta_base + scale m, m the mean of the thinned task vectors that agree in sign.

    With x_i = keep_i(d_i): the sign elected is that of sum_i v_i x_i; zero counts as positive. A
    source agrees where v_i x_i is not zero and has this sign. m is the sum of w_i x_i over those
    that agree, divided by the sum of their w_i (`normalize`; a zero sum counts as 1).
    """

    weights: tuple[float, ...]
    votes: tuple[float, ...]
    keeps: tuple[Keep, ...]
    normalize: bool = True
    scale: float = 1.0

    def apply(self, chunk: Chunk) -> "torch.Tensor":
        import torch

        thinned = kept(self.keeps, chunk)
        positive = weighted_sum(thinned, self.votes) >= 0
        total = torch.zeros_like(chunk.base)
        divisor = torch.zeros_like(chunk.base)
        for x, weight, vote in zip(thinned, self.weights, self.votes, strict=True):
            ballot = x * vote
            agrees = torch.where(positive, ballot > 0, ballot < 0)
            total += (x * weight) * agrees
            divisor += weight * agrees
        if self.normalize:
            total /= torch.where(divisor == 0, 1.0, divisor)
        return chunk.base + total * self.scale


def kept(keeps: Sequence[Keep], chunk: Chunk) -> "list[torch.Tensor]":
    """keep_i(d_i) for every source."""
    return [keep.apply(delta, chunk.start) for keep, delta in zip(keeps, chunk.deltas, strict=True)]


def weighted_sum(tensors: "Sequence[torch.Tensor]", weights: Sequence[float]) -> "torch.Tensor":
    """sum_i w_i x_i in the order given, each product and sum rounded to float32."""
    total = tensors[0] * weights[0]
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        total += tensor * weight  # two roundings: a fused multiply-add would depend on the machine
    return total
