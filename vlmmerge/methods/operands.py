"""What a method reads of one tensor: every source's rows, as they are stored."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


class View(Protocol):
    """One source of one tensor, [rows, columns], read by spans of rows."""

    @property
    def dtype(self) -> "torch.dtype":
        """Of what `read` returns."""
        ...

    def read(self, first: int, last: int) -> "torch.Tensor":
        """Rows `first` up to `last`, contiguous; not to be written to."""
        ...


@dataclass(frozen=True)
class Held:
    """A view of a tensor that is in memory, or mapped: [rows, columns], contiguous."""

    tensor: "torch.Tensor"

    @property
    def dtype(self) -> "torch.dtype":
        return self.tensor.dtype

    def read(self, first: int, last: int) -> "torch.Tensor":
        return self.tensor[first:last]


@dataclass(frozen=True)
class Zeros:
    """A view of nothing but zeros, of so many columns."""

    columns: int

    @property
    def dtype(self) -> "torch.dtype":
        import torch

        return torch.float32

    def read(self, first: int, last: int) -> "torch.Tensor":
        import torch

        return torch.zeros(last - first, self.columns)


@dataclass(frozen=True)
class Operands:
    """All that a method reads of one tensor.

    A tensor of any shape is a matrix here: its last dimension the `columns`, all others the rows;
    a vector is one row. `sources` are the recipient, then the donors; `bases` what the task vector
    of each is taken against, `base` or its own, empty where there is no base. `extras`: the Fisher
    information of each source, of the tensor's shape, and `grams`: the Gram matrix of what each
    source's linear layer saw, [columns, columns]; nothing where a source has none.
    """

    rows: int
    columns: int
    sources: Sequence[View]
    base: View | None = None
    bases: Sequence[View] = ()
    extras: Sequence[View] = ()
    grams: Sequence[View] = ()

    @property
    def elements(self) -> int:
        return self.rows * self.columns

    def chunk(self, first: int, last: int) -> "Chunk":
        """Rows `first` up to `last`, in float32."""
        return Chunk(self, first, last)


@dataclass(frozen=True)
class Chunk:
    """Rows `first` up to `last` of one tensor, float32 [rows, columns], read when asked for."""

    operands: Operands
    first: int
    last: int

    @property
    def start(self) -> int:
        """The number of the first element, counted through the whole tensor."""
        return self.first * self.operands.columns

    @cached_property
    def sources(self) -> "tuple[torch.Tensor, ...]":
        return tuple(self._read(view) for view in self.operands.sources)

    @cached_property
    def base(self) -> "torch.Tensor":
        assert self.operands.base is not None
        return self._read(self.operands.base)

    @cached_property
    def deltas(self) -> "tuple[torch.Tensor, ...]":
        """The task vectors, source by source: theta_i - theta_base, or its own base."""
        shared = self.operands.base
        bases = (self.base if b is shared else self._read(b) for b in self.operands.bases)
        return tuple(theta - base for theta, base in zip(self.sources, bases, strict=True))

    @cached_property
    def extras(self) -> "tuple[torch.Tensor, ...]":
        return tuple(self._read(view) for view in self.operands.extras)

    def _read(self, view: View) -> "torch.Tensor":
        return view.read(self.first, self.last).float()
