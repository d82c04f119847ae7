"""SCE: select, calculate, erase (Wan et al., FuseChat, 2408.07990)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from vlmmerge.methods.forms import Base, Elect, Form
from vlmmerge.methods.keeping import All, Cut
from vlmmerge.methods.method import Draws, Parameter, Value
from vlmmerge.methods.operands import Chunk
from vlmmerge.methods.statistics import Statistics

if TYPE_CHECKING:
    import torch

SELECT_TOPK = Parameter("select_topk", 1.0, 0.0, 1.0, open_low=True)


@dataclass(frozen=True)
class Sce:
    """Where task vectors differ most, they are merged by their energy and majority sign.

    1. select: of the n elements of a tensor the max(1, floor(select_topk n)) whose variance over
       the sources' d_i is largest;
    2. calculate: eta_i = sum d_i^2 / sum_j sum d_j^2, over what is selected;
    3. erase: s = sign(sum_i d_i), zero counting as positive; the d_i of another sign are erased;
    4. theta = theta_base + sum of eta_i d_i over what is left, divided by the sum of its eta_i.
    """

    name: ClassVar[str] = "sce"
    base: ClassVar[Literal["needed", "optional", "unused"]] = "needed"
    donors: ClassVar[tuple[int, int | None]] = (1, None)
    per_source: ClassVar[tuple[Parameter, ...]] = ()
    shared: ClassVar[tuple[Parameter, ...]] = (SELECT_TOPK,)

    def form(
        self,
        tensor: Statistics,
        coefficients: Sequence[Mapping[str, float]],
        shared: Mapping[str, Value],
        draws: Draws,
    ) -> Form:
        count = len(coefficients)
        cut = tensor.cut(Variance(), float(shared["select_topk"]))
        energy = tensor.total(Energy(cut)).tolist()
        whole = sum(energy)
        if whole == 0:
            return Base()
        shares = tuple(e / whole for e in energy)
        return Selected(cut, Elect(shares, (1.0,) * count, (All(),) * count))


@dataclass(frozen=True)
class Variance:
    """The variance of every element over the sources' task vectors."""

    def of(self, chunk: Chunk) -> "torch.Tensor":
        first, *rest = chunk.deltas
        mean = first.clone()
        for delta in rest:
            mean += delta
        mean /= len(chunk.deltas)
        total = (first - mean).square_()
        for delta in rest:
            total += (delta - mean).square_()
        return total / len(chunk.deltas)


@dataclass(frozen=True)
class Energy:
    """sum d_i^2 over the elements whose variance is above a cut: float64 [k], k sources."""

    cut: Cut

    def of(self, chunk: Chunk) -> "torch.Tensor":
        import torch

        selected = self.cut.above(Variance().of(chunk), chunk.start)
        return torch.stack([(d * selected).double().square_().sum() for d in chunk.deltas])


@dataclass(frozen=True)
class Selected:
    """What `merged` makes of the elements whose variance is above a cut; theta_base elsewhere."""

    cut: Cut
    merged: Elect

    def apply(self, chunk: Chunk) -> "torch.Tensor":
        import torch

        selected = self.cut.above(Variance().of(chunk), chunk.start)
        return torch.where(selected, self.merged.apply(chunk), chunk.base)
