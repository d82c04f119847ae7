"""Statistics of tensors in passes over their rows: exact, the same for any number of threads.

A cut needs no sort. One pass counts the upper 16 bits of every magnitude, a second the lower 16
bits of those in the one bucket where the cut is: together they are the threshold, to the last bit.
A third pass looks for the last of equal magnitudes that is still above, where only some are.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from vlmmerge.methods.keeping import NO_CUT, Cut
from vlmmerge.methods.kernels.spans import Span, count_equal, count_span, sum_span
from vlmmerge.methods.kernels.workers import Workers, spans
from vlmmerge.methods.operands import Operands, View
from vlmmerge.methods.statistics import Quantity, Scope

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

_ALL = 2**62  # beyond the number of any element


class Measured:
    """`Statistics` of one tensor. What was asked once is kept.

    `cuts`: all tensors that are ranked together where a cut's scope is the model.
    """

    def __init__(
        self, operands: Operands, workers: Workers, cuts: "ModelCuts | None" = None
    ) -> None:
        self.operands = operands
        self._workers = workers
        self._cuts = cuts
        self._known: dict[object, Any] = {}

    @property
    def rows(self) -> int:
        return self.operands.rows

    @property
    def columns(self) -> int:
        return self.operands.columns

    @property
    def has_base(self) -> bool:
        return self.operands.base is not None

    @property
    def grams(self) -> Sequence[View]:
        return self.operands.grams

    def total(self, quantity: Quantity) -> "torch.Tensor":
        return self._once(("total", quantity), lambda: self._sum(quantity))

    def by_row(self, quantity: Quantity) -> "torch.Tensor":
        import torch

        return self._once(("rows", quantity), lambda: torch.cat(list(self._of(quantity))))

    def cut(self, quantity: Quantity, density: float, scope: Scope = "tensor") -> Cut:
        if density >= 1:
            return NO_CUT
        if scope == "model":
            assert self._cuts is not None
            return self._cuts.cut(self, quantity, density)
        keep = max(1, math.floor(density * self.operands.elements))
        return self._once(("cut", quantity, keep), lambda: self._cut(quantity, keep))

    def counts(self, quantity: Quantity, upper: int | None) -> "torch.Tensor":
        """How many magnitudes there are by their upper bits, or by the lower bits of one bucket.

        Only the first are kept: they serve every density, those of a bucket hardly ever twice.
        """
        if upper is not None:
            return self._count(quantity, upper)
        return self._once(("counts", quantity), lambda: self._count(quantity, None))

    def number_of_equal(self, quantity: Quantity, threshold: float, rank: int) -> int:
        """The number of the `rank`-th element (from 1) that equals `threshold`."""
        import torch

        left = rank
        found = self._workers.map(
            lambda span: count_equal(quantity, self.operands, span, threshold), self._spans
        )
        for span, equal in zip(self._spans, found, strict=True):
            if left <= equal:
                magnitude = quantity.of(self.operands.chunk(*span)).reshape(-1)
                places = torch.nonzero(magnitude == threshold).reshape(-1)
                return span[0] * self.columns + int(places[left - 1])
            left -= equal
        raise AssertionError("fewer elements equal the threshold than were counted")

    def _cut(self, quantity: Quantity, keep: int) -> Cut:
        upper, left = from_the_top(self.counts(quantity, None), keep)
        fine = self.counts(quantity, upper)
        lower, left = from_the_top(fine, left)
        threshold = number_of_bits(upper, lower)
        if left == int(fine[lower]):
            return Cut(threshold, _ALL)
        return Cut(threshold, self.number_of_equal(quantity, threshold, left))

    def _count(self, quantity: Quantity, upper: int | None) -> "torch.Tensor":
        return _added(
            self._workers.map(
                lambda span: count_span(quantity, self.operands, span, upper), self._spans
            )
        )

    def _sum(self, quantity: Quantity) -> "torch.Tensor":
        return _added(self._of(quantity))

    def _of(self, quantity: Quantity) -> "Iterator[torch.Tensor]":
        return self._workers.map(lambda s: sum_span(quantity, self.operands, s), self._spans)

    @property
    def _spans(self) -> list[Span]:
        return spans(self.operands.rows, self.operands.columns)

    def _once(self, key: object, find: Callable[[], T]) -> T:
        if key not in self._known:
            self._known[key] = find()
        known: T = self._known[key]
        return known


class ModelCuts:
    """Cuts through the magnitudes of all tensors of a backbone, ranked together in their order."""

    def __init__(self) -> None:
        self.tensors: Sequence[Measured] = ()
        self._known: dict[tuple[Quantity, float], dict[Measured, Cut]] = {}

    def cut(self, tensor: Measured, quantity: Quantity, density: float) -> Cut:
        """The cut as far as it goes through one of `tensors`."""
        key = quantity, density
        if key not in self._known:
            self._known[key] = self._cut(quantity, density)
        return self._known[key][tensor]

    def _cut(self, quantity: Quantity, density: float) -> dict[Measured, Cut]:
        n = sum(tensor.operands.elements for tensor in self.tensors)
        keep = max(1, math.floor(density * n))
        counts = _added(tensor.counts(quantity, None) for tensor in self.tensors)
        upper, left = from_the_top(counts, keep)
        fine = [tensor.counts(quantity, upper) for tensor in self.tensors]
        lower, left = from_the_top(_added(fine), left)
        threshold = number_of_bits(upper, lower)
        cuts = {}
        for tensor, found in zip(self.tensors, fine, strict=True):
            equal = int(found[lower])
            if left >= equal:
                cuts[tensor] = Cut(threshold, _ALL)
            elif left > 0:
                cuts[tensor] = Cut(threshold, tensor.number_of_equal(quantity, threshold, left))
            else:
                cuts[tensor] = Cut(threshold)
            left = max(0, left - equal)
        return cuts


def from_the_top(counts: "torch.Tensor", keep: int) -> tuple[int, int]:
    """The bin that holds the `keep`-th largest, and how many of that bin are kept."""
    above = counts.flip(0).cumsum(0)
    place = int((above < keep).sum())
    found = len(counts) - 1 - place
    return found, keep - int(above[place] - counts[found])


def number_of_bits(upper: int, lower: int) -> float:
    """The float32 number of these bits."""
    import struct

    (number,) = struct.unpack("<f", struct.pack("<I", upper << 16 | lower))
    return float(number)


def _added(parts: "Iterable[torch.Tensor]") -> "torch.Tensor":
    """The parts' sum, added in their order."""
    first, *rest = parts
    total = first.clone()
    for part in rest:
        total += part
    return total
