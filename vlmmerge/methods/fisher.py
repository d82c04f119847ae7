"""Fisher merging: a mean weighted by how much each element matters (Matena, 2111.09832)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from vlmmerge.methods.forms import Form
from vlmmerge.methods.method import Draws, Parameter, Value
from vlmmerge.methods.operands import Chunk
from vlmmerge.methods.statistics import Statistics

if TYPE_CHECKING:
    import torch

# Negative shares of an information have no meaning.
SHARE = Parameter("weight", 1.0, 0.0, 1e6)


@dataclass(frozen=True)
class Fisher:
    """theta = sum_i w_i F_i theta_i / sum_i w_i F_i, element by element.

    F_i is the diagonal of source i's Fisher information, the mean over examples of the squared
    gradient of log p(reference answer), as `vlmmerge statistics` makes it. Where no source has any,
    the mean is by w_i alone.
    """

    name: ClassVar[str] = "fisher"
    base: ClassVar[Literal["needed", "optional", "unused"]] = "unused"
    donors: ClassVar[tuple[int, int | None]] = (1, None)
    per_source: ClassVar[tuple[Parameter, ...]] = (SHARE,)
    shared: ClassVar[tuple[Parameter, ...]] = ()
    statistics: ClassVar[Literal["fisher", "gram"]] = "fisher"

    def form(
        self,
        tensor: Statistics,
        coefficients: Sequence[Mapping[str, float]],
        shared: Mapping[str, Value],
        draws: Draws,
    ) -> Form:
        return WeighedByElement(tuple(c["weight"] for c in coefficients))


@dataclass(frozen=True)
class WeighedByElement:
    """sum_i w_i F_i theta_i / sum_i w_i F_i, or by w_i alone where that is 0 / 0. In float64."""

    weights: tuple[float, ...]

    def apply(self, chunk: Chunk) -> "torch.Tensor":
        import torch

        thetas = [theta.double() for theta in chunk.sources]
        masses = [w * f.double() for w, f in zip(self.weights, chunk.extras, strict=True)]
        mass = torch.stack(masses).sum(0)
        whole = sum(self.weights) or 1.0
        even = torch.stack([t * (w / whole) for t, w in zip(thetas, self.weights, strict=True)])
        moment = torch.stack([m * t for m, t in zip(masses, thetas, strict=True)]).sum(0)
        return torch.where(mass > 0, moment / mass, even.sum(0)).float()
