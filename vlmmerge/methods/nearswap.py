"""NearSwap: go over to the donor where it is near (Alchemonaut's QuartetAnemoi-70B, 2024)."""

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
class NearSwap:
    """theta = (1 - s) theta_0 + s theta_1, with s = min(1, t / |theta_1 - theta_0|) by element.

    theta_0 is the recipient, theta_1 the donor. Elements nearer than t become the donor's; of those
    farther away, the step taken is t.
    """

    name: ClassVar[str] = "nearswap"
    base: ClassVar[Literal["needed", "optional", "unused"]] = "unused"
    donors: ClassVar[tuple[int, int | None]] = (1, 1)
    per_source: ClassVar[tuple[Parameter, ...]] = ()
    shared: ClassVar[tuple[Parameter, ...]] = (Parameter("t", 0.001, 0.0),)

    def form(
        self,
        tensor: Statistics,
        coefficients: Sequence[Mapping[str, float]],
        shared: Mapping[str, Value],
        draws: Draws,
    ) -> Form:
        return Near(float(shared["t"]))


@dataclass(frozen=True)
class Near:
    """theta_0 + s (theta_1 - theta_0), s = min(1, t / |theta_1 - theta_0|)."""

    t: float

    def apply(self, chunk: Chunk) -> "torch.Tensor":
        import torch

        first, second = chunk.sources
        way = second - first
        # 0 / 0 is no number, and equal elements are near at any t.
        share = torch.nan_to_num(self.t / way.abs(), nan=1.0).clamp(max=1.0)
        return torch.where(share < 1, (1 - share) * first + share * second, second)
