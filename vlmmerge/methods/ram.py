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
    the base's.
    """

    name: ClassVar[str] = "ram"
    base: ClassVar[Literal["needed", "optional", "unused"]] = "needed"
    donors: ClassVar[tuple[int, int | None]] = (1, None)
    per_source: ClassVar[tuple[Parameter, ...]] = ()
    shared: ClassVar[tuple[Parameter, ...]] = (Parameter("epsilon", 1e-5, 0.0),)

    def form(
        self,
        tensor: Statistics,
        coefficients: Sequence[Mapping[str, float]],
        shared: Mapping[str, Value],
        draws: Draws,
    ) -> Form:
        return MeanOfChanged(float(shared["epsilon"]))


@dataclass(frozen=True)
class MeanOfChanged:
    """theta_base + the mean of the task vectors that are larger than `epsilon` in an element."""

    epsilon: float

    def apply(self, chunk: Chunk) -> "torch.Tensor":
        import torch

        total = torch.zeros_like(chunk.base)
        count = torch.zeros_like(chunk.base)
        for delta in chunk.deltas:
            changed = delta.abs() > self.epsilon
            total += delta * changed
            count += changed
        return chunk.base + total / count.clamp(min=1)
