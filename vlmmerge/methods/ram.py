"""RAM: average what several sources changed, keep whole what one did (Yuan et al., 2601.13572)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from vlmmerge.methods.forms import Form
from vlmmerge.methods.method import Draws, Parameter, Value
from vlmmerge.methods.operands import Chunk
from vlmmerge.methods.statistics import Statistics

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Ram:
    """theta = theta_base + the mean of those d_i whose |d_i| > epsilon, element by element.

    What one source alone changed is not diluted by the others, which did not; what none did stays
    the base's. With `r` above 0 (RAM+) what source i alone changed is multiplied by
    1 + r min(rho_i, alpha), rho_i = how many elements it changed with others / how many alone,
    counted in each tensor as in mergekit's `ramplus_tl`, where the paper counts in the model.
    """

    name: ClassVar[str] = "ram"
    base: ClassVar[Literal["needed", "optional", "unused"]] = "needed"
    donors: ClassVar[tuple[int, int | None]] = (1, None)
    per_source: ClassVar[tuple[Parameter, ...]] = ()
    shared: ClassVar[tuple[Parameter, ...]] = (
        Parameter("epsilon", 1e-5, 0.0),
        Parameter("r", 0.0, 0.0, 1e6),
        Parameter("alpha", 0.2, 0.0, 1e6),
    )

    def form(
        self,
        tensor: Statistics,
        coefficients: Sequence[Mapping[str, float]],
        shared: Mapping[str, Value],
        draws: Draws,
    ) -> Form:
        epsilon, r, alpha = (float(shared[name]) for name in ("epsilon", "r", "alpha"))
        if r == 0:
            return MeanOfChanged(epsilon, (1.0,) * len(coefficients))
        counts = tensor.total(Changes(epsilon)).tolist()
        ratios = [together / alone if alone else 0.0 for together, alone in counts]
        return MeanOfChanged(epsilon, tuple(1 + r * min(rho, alpha) for rho in ratios))


@dataclass(frozen=True)
class Changes:
    """How many elements each of k sources changed, with others and alone: float64 [k, 2]."""

    epsilon: float

    def of(self, chunk: Chunk) -> "torch.Tensor":
        import torch

        changed = torch.stack([delta.abs() > self.epsilon for delta in chunk.deltas])
        alone = (changed & (changed.sum(0) == 1)).sum((1, 2))
        return torch.stack([changed.sum((1, 2)) - alone, alone], dim=1).double()


@dataclass(frozen=True)
class MeanOfChanged:
    """theta_base + the mean of the task vectors that are larger than `epsilon` in an element.

    One that is so alone is multiplied by its source's number in `alone`.
    """

    epsilon: float
    alone: tuple[float, ...]

    def apply(self, chunk: Chunk) -> "torch.Tensor":
        import torch

        count = torch.zeros_like(chunk.base)
        for delta in chunk.deltas:
            count += delta.abs() > self.epsilon
        total = torch.zeros_like(chunk.base)
        for delta, factor in zip(chunk.deltas, self.alone, strict=True):
            own = torch.where(count == 1, delta * factor, delta)
            total += own * (delta.abs() > self.epsilon)
        return chunk.base + total / count.clamp(min=1)
