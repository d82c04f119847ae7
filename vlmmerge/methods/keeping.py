"""Keeps: which elements of a task vector stay, and what they are multiplied by."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from vlmmerge.methods.masks import uniform

if TYPE_CHECKING:
    import torch


class Keep(Protocol):
    def apply(self, delta: "torch.Tensor", start: int) -> "torch.Tensor":
        """`delta` [rows, columns] with zeros where nothing is kept.

        `start` is the number of its first element in the whole tensor.
        """
        ...


@dataclass(frozen=True)
class Cut:
    """A cut through magnitudes: above are those beyond `threshold`, and equal ones up to `last`.

    `threshold` is a float32 number, negative where all are above; `last` the number of an element.
    """

    threshold: float
    last: int = -1

    def above(self, magnitude: "torch.Tensor", start: int) -> "torch.Tensor":
        """Which elements are above, bool; `start` is the number of the first."""
        import torch

        over = magnitude > self.threshold
        if start > self.last:
            return over
        index = torch.arange(start, start + magnitude.numel(), device=magnitude.device)
        level = magnitude == self.threshold
        return over | (level & (index.reshape(magnitude.shape) <= self.last))


NO_CUT = Cut(-1.0)


@dataclass(frozen=True)
class All:
    """Everything stays."""

    def apply(self, delta: "torch.Tensor", start: int) -> "torch.Tensor":
        return delta


@dataclass(frozen=True)
class Top:
    """The elements of largest magnitude stay: those above a cut."""

    cut: Cut

    def apply(self, delta: "torch.Tensor", start: int) -> "torch.Tensor":
        return delta * self.cut.above(delta.abs(), start)


@dataclass(frozen=True)
class Band:
    """The elements above `least` stay, but for those above `most`."""

    least: Cut
    most: Cut

    def apply(self, delta: "torch.Tensor", start: int) -> "torch.Tensor":
        size = delta.abs()
        return delta * (self.least.above(size, start) & ~self.most.above(size, start))


@dataclass(frozen=True)
class Drop:
    """Each element stays with probability `density`, drawn by `key`, and is then scaled."""

    key: tuple[int, int]
    density: float
    scale: float = 1.0

    def apply(self, delta: "torch.Tensor", start: int) -> "torch.Tensor":
        drawn = uniform(self.key, start, delta.numel(), delta.device).reshape(delta.shape)
        return (delta * self.scale) * (drawn < self.density)


@dataclass(frozen=True)
class DropByRank:
    """Each element stays with a probability that grows with its rank within its row.

    Of n columns the element of rank r = 0 .. n-1 by magnitude (equal ones by column) stays with
    p = low + (high - low) r / (n - 1), drawn by `key`. What stays is divided by p (`rescale`), then
    multiplied by `scale`.
    """

    key: tuple[int, int]
    low: float
    high: float
    rescale: bool = True
    scale: float = 1.0

    def apply(self, delta: "torch.Tensor", start: int) -> "torch.Tensor":
        import torch

        columns = delta.shape[-1]
        order = delta.abs().argsort(dim=-1, stable=True)
        step = (self.high - self.low) / max(1, columns - 1)
        by_rank = self.low + step * torch.arange(columns, device=delta.device)
        p = torch.empty_like(delta).scatter_(-1, order, by_rank.expand_as(delta).contiguous())
        drawn = uniform(self.key, start, delta.numel(), delta.device).reshape(delta.shape)
        left = (delta / p if self.rescale else delta) * self.scale
        return left * (drawn < p)
