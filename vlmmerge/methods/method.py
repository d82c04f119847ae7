"""What a merge method is: its parameters, what it needs, and the form that it gives a tensor."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

from vlmmerge.errors import ConfigError
from vlmmerge.methods.forms import Form
from vlmmerge.methods.statistics import Statistics

Value = float | bool | str


@dataclass(frozen=True)
class Parameter:
    """A parameter of a method: its default, and what it may be.

    A number lies in [`low`, `high`] (`open_low`: without its lower end; `whole`: with no decimals),
    a choice in `choices`, a switch is true or false.
    """

    name: str
    default: Value
    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    choices: tuple[str, ...] = ()
    whole: bool = False

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
        if self.whole and value != int(value):
            raise ConfigError(f"{where}: {value} is not a whole number")
        return float(value)


@dataclass(frozen=True)
class Draws:
    """What a random mask is keyed by: the recipe's seed and the tensor's place.

    `sources` names the sources in the order in which the method gets them.
    """

    seed: int
    tensor: str
    sources: Sequence[str]


class Method(Protocol):
    """A merge method.

    `base`: whether it needs the common base, goes without, or takes one where there is one.
    `donors`: the least and the most that it takes.
    """

    name: ClassVar[str]
    base: ClassVar[Literal["needed", "optional", "unused"]]
    donors: ClassVar[tuple[int, int | None]]
    per_source: ClassVar[tuple[Parameter, ...]]
    shared: ClassVar[tuple[Parameter, ...]]

    def form(
        self,
        tensor: Statistics,
        coefficients: Sequence[Mapping[str, float]],
        shared: Mapping[str, Value],
        draws: Draws,
    ) -> Form:
        """What the merge of one tensor comes to.

        `tensor` answers what must be known of it as a whole; `coefficients` are those of the
        recipient, then of the donors.
        """
        ...


@runtime_checkable
class Checked(Protocol):
    """A method whose parameters bind each other."""

    def check(self, coefficients: Mapping[str, Mapping[str, float]]) -> None:
        """Raise `ConfigError` where the coefficients of a group, by source, do not fit."""
        ...


@runtime_checkable
class Narrowing(Protocol):
    """A method one of whose parameters has a range that depends on others."""

    def range_of(self, parameter: str, values: Mapping[str, float]) -> tuple[float, float]:
        """What a search may give a per-source parameter where the source's others are `values`."""
        ...


@runtime_checkable
class Informed(Protocol):
    """A method that needs statistics of every source, of this kind."""

    statistics: ClassVar[Literal["fisher", "gram"]]


# Beyond this no merge of 16-bit floats is finite.
_LARGEST = 1e6

WEIGHT = Parameter("weight", 1.0, -_LARGEST, _LARGEST)
DENSITY = Parameter("density", 1.0, 0.0, 1.0, open_low=True)
LAMBDA = Parameter("lambda", 1.0, -_LARGEST, _LARGEST)
NORMALIZE = Parameter("normalize", True)
