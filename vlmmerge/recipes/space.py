"""MergeSpace: the map between a vector in [0,1]^n and a Recipe."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from vlmmerge.anatomy import RECIPIENT, Cell
from vlmmerge.config import check_keys
from vlmmerge.errors import ConfigError
from vlmmerge.methods import Narrowing, Parameter
from vlmmerge.recipes.recipe import Recipe

# Coefficients are rounded to so many decimals: a recipe reads well and says all of what was scored.
DECIMALS = 6

Grouping = Literal["global", "layers", "modules"]


@dataclass(frozen=True)
class Range:
    """One searched parameter: bounds, start, and how finely the backbone is cut for it."""

    low: float
    high: float
    start: float
    groups: Grouping | None = None

    def __post_init__(self) -> None:
        if not self.low < self.high or not self.low <= self.start <= self.high:
            raise ConfigError(f"space: start {self.start} is not in [{self.low}, {self.high}]")


@dataclass(frozen=True)
class SpaceSpec:
    """What a config says of a space: a grouping, and a range for each parameter to search.

    Ranges of parameters that the method does not have are left out. `recipient`: whether the
    recipient's own coefficients are searched as well as the donors'.
    """

    groups: Grouping
    parameters: Mapping[str, Mapping[str, Any]]
    recipient: bool = True

    def __post_init__(self) -> None:
        if self.groups not in ("global", "layers", "modules"):
            raise ConfigError(f"space.groups: {self.groups!r} is not global, layers or modules")


@dataclass(frozen=True)
class Dimension:
    """One coordinate: a parameter of a source (None: shared), in the groups `keys` alike."""

    source: str | None
    parameter: str
    keys: tuple[str, ...]
    range: Range

    @property
    def label(self) -> str:
        """Unique among a space's dimensions: `ja.weight layers.0.attn`."""
        name = self.parameter if self.source is None else f"{self.source}.{self.parameter}"
        return f"{name} {'+'.join(self.keys)}"


@dataclass(frozen=True)
class MergeSpace:
    """Vectors in [0,1]^n and their recipes; `template` gives all that is not searched."""

    template: Recipe
    dimensions: tuple[Dimension, ...]

    @classmethod
    def build(cls, spec: SpaceSpec, template: Recipe, cells: Sequence[Cell]) -> "MergeSpace":
        """The space over a backbone's `cells`. Raises `ConfigError` where nothing is searched."""
        rule = template.rule
        if template.embeddings != "merge":
            cells = [cell for cell in cells if cell.module not in ("embed", "head")]
        sources = [s for s in template.sources if spec.recipient or s != RECIPIENT]
        searched: list[Dimension] = []
        for parameter, source in [
            *((p, s) for p in rule.per_source for s in sources),
            *((p, None) for p in rule.shared),
        ]:
            if parameter.name in spec.parameters:
                where = f"space.parameters.{parameter.name}"
                span = _range(spec.parameters[parameter.name], parameter, where)
                if source is not None and isinstance(rule, Narrowing):
                    values = _values(spec, template, source, cells)
                    span = _narrowed(span, rule, parameter.name, values)
                searched += [
                    Dimension(source, parameter.name, keys, span)
                    for keys in cut(span.groups or spec.groups, cells)
                ]
        if not searched:
            raise ConfigError(f"space: searches no parameter of {template.method}")
        return cls(template, tuple(searched))

    def __len__(self) -> int:
        return len(self.dimensions)

    @property
    def start(self) -> list[float]:
        """The vector that a search starts from."""
        return [_unit(d.range.start, d.range) for d in self.dimensions]

    def recipe(self, vector: Sequence[float]) -> Recipe:
        """The recipe of a vector in [0,1]^n."""
        coefficients: dict[str, dict[str, Any]] = {
            source: dict(values) for source, values in self.template.coefficients.items()
        }
        shared: dict[str, Any] = dict(self.template.shared)
        fresh: set[tuple[str | None, str]] = set()
        for dimension, x in zip(self.dimensions, vector, strict=True):
            span = dimension.range
            value = round(span.low + float(x) * (span.high - span.low), DECIMALS)
            holder = (
                shared
                if dimension.source is None
                else coefficients.setdefault(dimension.source, {})
            )
            if (dimension.source, dimension.parameter) not in fresh:
                fresh.add((dimension.source, dimension.parameter))
                holder[dimension.parameter] = {}
            for key in dimension.keys:
                holder[dimension.parameter][key] = value
        return replace(self.template, coefficients=coefficients, shared=shared)

    def vector(self, recipe: Recipe) -> list[float]:
        """The vector of a recipe of this space: `recipe(vector(r)) == r`."""
        return [
            _unit(float(_holder(recipe, d)[d.parameter][d.keys[0]]), d.range)
            for d in self.dimensions
        ]

    def uniform(self, weight: float) -> Recipe:
        """Every donor at one `weight` (for methods without weights: `t`), all else as it starts."""
        rule = self.template.rule
        named = {p.name for p in rule.per_source}
        starts = {(d.source, d.parameter): d.range.start for d in self.dimensions}
        coefficients = {
            source: {
                **self.template.coefficients.get(source, {}),
                **{p: starts[source, p] for p in named - {"weight"} if (source, p) in starts},
                **({"weight": weight} if "weight" in named and source != RECIPIENT else {}),
            }
            for source in (self.template.sources if named else ())
        }
        shared = dict(self.template.shared)
        for p in rule.shared:
            if p.name == "t":
                shared["t"] = min(max(weight, p.low), p.high)
            elif (None, p.name) in starts:
                shared[p.name] = starts[None, p.name]
        return replace(self.template, coefficients=coefficients, shared=shared)


def cut(groups: Grouping, cells: Sequence[Cell]) -> list[tuple[str, ...]]:
    """The group keys of each coordinate, together covering every cell once.

    `modules`: embeddings, every layer's attention and MLP, head, and all norms as one.
    """
    if groups == "global":
        return [("all",)]
    layers = sorted({cell.layer for cell in cells if cell.layer is not None})
    span = f"layers.{layers[0]}-{layers[-1]}"
    outside: dict[str, tuple[str, ...]] = {
        cell.module: (cell.module,) for cell in cells if cell.layer is None
    }
    if groups == "layers":
        inside = [(f"layers.{layer}",) for layer in layers]
    else:
        inside = [(f"layers.{i}.{module}",) for i in layers for module in ("attn", "mlp")]
        outside["norm"] = ("norm", f"{span}.norm")
    order = [outside.get("embed"), *inside, outside.get("norm"), outside.get("head")]
    return [keys for keys in order if keys is not None]


def _range(node: Mapping[str, Any], parameter: Parameter, where: str) -> Range:
    check_keys(node, ("low", "high", "start", "groups"), where)
    try:
        span = Range(**node)
    except TypeError as error:
        raise ConfigError(f"{where}: give low, high and start ({error})") from error
    for end in ("low", "high"):
        parameter.check(getattr(span, end), f"{where}.{end}")
    return span


def _values(
    spec: SpaceSpec, template: Recipe, source: str, cells: Sequence[Cell]
) -> list[dict[str, float]]:
    """A source's parameters wherever they differ; of what is searched, the upper ends."""
    ends = {name: node["high"] for name, node in spec.parameters.items() if "high" in node}
    place = template.sources.index(source)
    return [{**template.coefficients_at(cell)[place], **ends} for cell in cells]


def _narrowed(
    span: Range, rule: Narrowing, parameter: str, values: Iterable[Mapping[str, float]]
) -> Range:
    """As much of a range as a method can use."""
    ends = [rule.range_of(parameter, found) for found in values]
    low = max(span.low, *(low for low, _ in ends))
    high = min(span.high, *(high for _, high in ends))
    return replace(span, low=low, high=high, start=min(max(span.start, low), high))


def _unit(value: float, span: Range) -> float:
    return (value - span.low) / (span.high - span.low)


def _holder(recipe: Recipe, dimension: Dimension) -> Mapping[str, Any]:
    if dimension.source is None:
        return recipe.shared
    return recipe.coefficients[dimension.source]
