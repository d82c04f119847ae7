"""Spherical interpolation of two models' weights (Shoemake, 1985)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from vlmmerge.methods.forms import Blend, Form
from vlmmerge.methods.method import Draws, Parameter, Value
from vlmmerge.methods.statistics import Products, Statistics

# Closer to parallel than this, the arc is a line.
_PARALLEL = 0.9995


@dataclass(frozen=True)
class Slerp:
    """theta = sin((1-t) a) / sin(a) theta_0 + sin(t a) / sin(a) theta_1.

    theta_0 is the recipient, theta_1 the donor, a the angle between the two as flat vectors.
    """

    name: ClassVar[str] = "slerp"
    base: ClassVar[Literal["needed", "optional", "unused"]] = "unused"
    donors: ClassVar[tuple[int, int | None]] = (1, 1)
    per_source: ClassVar[tuple[Parameter, ...]] = ()
    shared: ClassVar[tuple[Parameter, ...]] = (Parameter("t", 0.5, 0.0, 1.0),)

    def form(
        self,
        tensor: Statistics,
        coefficients: Sequence[Mapping[str, float]],
        shared: Mapping[str, Value],
        draws: Draws,
    ) -> Form:
        (first, both), (_, second) = tensor.total(Products()).tolist()
        return Blend(arc(first, second, both, float(shared["t"])))


def arc(
    first: float, second: float, both: float, t: float, parallel: float = _PARALLEL
) -> tuple[float, float]:
    """The two weights, of vectors with these squared lengths and this scalar product.

    Where the cosine of their angle is beyond `parallel` the arc is a line.
    """
    lengths = math.sqrt(first * second)
    cosine = both / lengths if lengths > 0 else 1.0
    if abs(cosine) > parallel:
        return 1 - t, t
    angle = math.acos(cosine)
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)
