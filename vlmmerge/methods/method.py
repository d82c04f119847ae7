"""What a merge method is: its parameters, what it needs, and one pure function of tensors."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from vlmmerge.errors import ConfigError

if TYPE_CHECKING:
    import torch

Value = float | bool | str


@dataclass(frozen=True)
class Parameter:
    """A parameter of a method: its default, and what it may be.

    A number lies in [`low`, `high`] (`open_low`: without its lower end), a choice in `choices`,
    a switch is true or false.
    """

    name: str
    default: Value
    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    choices: tuple[str, ...] = ()

    def check(self, value: object, where: str) -> Value:
        """`value` as this parameter's type; `ConfigError` naming the config key `where` if not."""
        if self.choices or isinstance(self.default, bool):
            allowed: tuple[Value, ...] = self.choices or (True, False)
            if value in allowed and isinstance(value, type(self.default)):
                return value
            shown = ", ".join(str(choice).lower() for choice in allowed)
            raise ConfigError(f"{where}: {value!r} is not one of {shown}")
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
            raise ConfigError(f"{where}: {value!r} is not a number")
        low = value > self.low if self.open_low else value >= self.low
        if not low or not value <= self.high or math.isinf(value):
            bracket = "(" if self.open_low else "["
            raise ConfigError(f"{where}: {value} is outside {bracket}{self.low}, {self.high}]")
        return float(value)


@dataclass(frozen=True)
class Draws:
    """What a random mask is keyed by: the recipe's seed and the tensor's place.

    `first` is the index of the first element, for a tensor that comes in chunks; `sources` names
    the sources in the order in which the method gets them.
    """

    seed: int
    tensor: str
    sources: Sequence[str]
    first: int = 0


class Method(Protocol):
    """A merge method. Every tensor is float32, on one device, of one shape.

    `takes`: what `merge` gets of each source, its `weights` or its `deltas` against the base.
    """

    name: ClassVar[str]
    takes: ClassVar[Literal["weights", "deltas"]]
    donors: ClassVar[tuple[int, int | None]]  # least and most
    per_source: ClassVar[tuple[Parameter, ...]]
    shared: ClassVar[tuple[Parameter, ...]]

    def merge(
        self,
        base: "torch.Tensor | None",
        sources: Sequence["torch.Tensor"],
        coefficients: Sequence[Mapping[str, float]],
        shared: Mapping[str, Value],
        draws: Draws,
    ) -> "torch.Tensor":
        """The merged tensor, float32. `sources` and `coefficients`: the recipient, then donors."""
        ...


# Beyond this no merge of 16-bit floats is finite.
_LARGEST = 1e6

WEIGHT = Parameter("weight", 1.0, -_LARGEST, _LARGEST)
DENSITY = Parameter("density", 1.0, 0.0, 1.0, open_low=True)
LAMBDA = Parameter("lambda", 1.0, -_LARGEST, _LARGEST)
