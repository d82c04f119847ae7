"""Passthrough: one source's weights in each group, scaled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from vlmmerge.methods.forms import Blend, Form
from vlmmerge.methods.method import Draws, Parameter, Value
from vlmmerge.methods.statistics import Statistics

SCALE = Parameter("scale", 1.0, -1e6, 1e6)


@dataclass(frozen=True)
class Passthrough:
    """theta = scale_s theta_s, with s the last source whose scale in this group is not 0.

    The recipient comes first, so that it is what passes where no donor has a scale.
    """

    name: ClassVar[str] = "passthrough"
    base: ClassVar[Literal["needed", "optional", "unused"]] = "unused"
    donors: ClassVar[tuple[int, int | None]] = (1, None)
    per_source: ClassVar[tuple[Parameter, ...]] = (SCALE,)
    shared: ClassVar[tuple[Parameter, ...]] = ()

    def form(
        self,
        tensor: Statistics,
        coefficients: Sequence[Mapping[str, float]],
        shared: Mapping[str, Value],
        draws: Draws,
    ) -> Form:
        scales = [c["scale"] for c in coefficients]
        last = max((i for i, scale in enumerate(scales) if scale != 0), default=0)
        return Blend(tuple(scale if i == last else 0.0 for i, scale in enumerate(scales)))
