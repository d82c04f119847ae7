"""What a method may ask of a tensor as a whole: sums, sums by row, and cuts through magnitudes.

A method asks for a quantity, a small frozen dataclass that says what is summed or ranked, by its
`of`, in plain PyTorch. Answers are kept by quantity: a search asks again for every candidate.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from vlmmerge.methods.keeping import Cut, Keep
from vlmmerge.methods.operands import Chunk, View

if TYPE_CHECKING:
    import torch

Scope = Literal["tensor", "model"]


class Quantity(Protocol):
    """Something of each chunk of a tensor. Equal quantities must compare equal, and hash."""

    def of(self, chunk: Chunk) -> "torch.Tensor": ...


class Statistics(Protocol):
    """One tensor, as a whole."""

    @property
    def rows(self) -> int: ...

    @property
    def columns(self) -> int: ...

    @property
    def has_base(self) -> bool: ...

    @property
    def grams(self) -> Sequence[View]:
        """Each source's Gram matrix [columns, columns]; nothing where a source has none."""
        ...

    def total(self, quantity: Quantity) -> "torch.Tensor":
        """The sum of a quantity that is one float64 tensor of a fixed shape for each chunk."""
        ...

    def by_row(self, quantity: Quantity) -> "torch.Tensor":
        """A quantity that is float64 [rows, ...] for each chunk, for all rows."""
        ...

    def cut(self, quantity: Quantity, density: float, scope: Scope = "tensor") -> Cut:
        """The cut above which k = max(1, floor(density n)) of n elements are.

        The quantity is a magnitude: float32 [rows, columns], nothing below 0. Of equal ones at the
        threshold the first by number are above. `scope`: n counts this tensor's elements, or those
        of all tensors of the backbone, which are then ranked together, in their order.
        """
        ...


@dataclass(frozen=True)
class Magnitude:
    """|d_i|, the size of every element of one source's task vector."""

    source: int

    def of(self, chunk: Chunk) -> "torch.Tensor":
        return chunk.deltas[self.source].abs()


@dataclass(frozen=True)
class AbsoluteSum:
    """sum |x|, before and after a keep: float64 [2], of one source's task vector."""

    source: int
    keep: Keep

    def of(self, chunk: Chunk) -> "torch.Tensor":
        import torch

        delta = chunk.deltas[self.source]
        left = self.keep.apply(delta, chunk.start)
        return torch.stack([delta.abs().double().sum(), left.abs().double().sum()])


@dataclass(frozen=True)
class Products:
    """Every source's scalar product with every other: float64 [k, k], k sources.

    Of weights (`deltas` false), or of task vectors.
    """

    deltas: bool = False

    def of(self, chunk: Chunk) -> "torch.Tensor":
        import torch

        found = chunk.deltas if self.deltas else chunk.sources
        flat = torch.stack([x.reshape(-1).double() for x in found])
        return flat @ flat.T


@dataclass(frozen=True)
class RowProducts:
    """The same products, row by row: float64 [rows, k, k]."""

    deltas: bool = False

    def of(self, chunk: Chunk) -> "torch.Tensor":
        import torch

        found = chunk.deltas if self.deltas else chunk.sources
        by_row = torch.stack([x.double() for x in found], dim=1)
        return by_row @ by_row.transpose(1, 2)
