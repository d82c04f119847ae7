"""Spherical interpolation of two models' weights (Shoemake, 1985)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from vlmmerge.methods.method import Draws, Parameter, Value

if TYPE_CHECKING:
    import torch

# Closer to parallel than this, the arc is a line.
_PARALLEL = 0.9995


@dataclass(frozen=True)
class Slerp:
    """theta = sin((1-t) a) / sin(a) theta_0 + sin(t a) / sin(a) theta_1.

    theta_0 is the recipient, theta_1 the donor, a the angle between the two as flat vectors.
    """

    name: ClassVar[str] = "slerp"
    takes: ClassVar[Literal["weights", "deltas"]] = "weights"
    donors: ClassVar[tuple[int, int | None]] = (1, 1)
    per_source: ClassVar[tuple[Parameter, ...]] = ()
    shared: ClassVar[tuple[Parameter, ...]] = (Parameter("t", 0.5, 0.0, 1.0),)

    def merge(
        self,
        base: "torch.Tensor | None",
        sources: Sequence["torch.Tensor"],
        coefficients: Sequence[Mapping[str, float]],
        shared: Mapping[str, Value],
        draws: Draws,
    ) -> "torch.Tensor":
        import torch

        start, end = sources
        t = float(shared["t"])
        lengths = start.norm() * end.norm()
        cosine = float((start * end).sum() / lengths) if lengths > 0 else 1.0
        if abs(cosine) > _PARALLEL:
            return start * (1 - t) + end * t
        angle = torch.arccos(torch.tensor(cosine, dtype=torch.float64))
        first, second = torch.sin((1 - t) * angle), torch.sin(t * angle)
        return start * float(first / torch.sin(angle)) + end * float(second / torch.sin(angle))
