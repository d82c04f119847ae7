"""Settings of mergekit, filters and gradients and all, as numbers by cell; and back to groups."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from vlmmerge.anatomy.cells import EMBED, HEAD, MODULES, NORM, Cell
from vlmmerge.errors import ConfigError
from vlmmerge.methods import Value

# What a filter is looked for in: the names that mergekit gives the tensors of a cell, as Llama's.
_NAMES = {
    "attn": [f"self_attn.{x}_proj.weight" for x in "qkvo"],
    "mlp": [f"mlp.{x}_proj.weight" for x in ("gate", "up", "down")],
    "norm": ["input_layernorm.weight", "post_attention_layernorm.weight"],
}
_OUTSIDE = {
    EMBED: "model.embed_tokens.weight",
    NORM: "model.norm.weight",
    HEAD: "lm_head.weight",
}


def cells_of(layers: int) -> list[Cell]:
    """Every cell of a decoder of so many layers."""
    inside = [Cell(i, module) for i in range(layers) for module in MODULES]
    return [EMBED, *inside, NORM, HEAD]


def names_of(cell: Cell) -> list[str]:
    """What mergekit calls the tensors of a cell."""
    if cell.layer is None:
        return [_OUTSIDE[cell]]
    return [f"model.layers.{cell.layer}.{name}" for name in _NAMES[cell.module]]


def value_at(setting: object, cell: Cell, t: float, where: str) -> Any:
    """What a setting is at a cell, None where no filter of it reaches the cell.

    `t` in [0, 1] is how far through its slice the layer is: gradients are interpolated there.
    Raises `ConfigError` where a filter reaches only some of a cell's tensors.
    """
    if isinstance(setting, Mapping):
        setting = [setting]
    if not isinstance(setting, Sequence) or isinstance(setting, str):
        return _scalar(setting, where)
    if not setting:
        return None
    if not any(isinstance(entry, Mapping) for entry in setting):
        return _gradient([_scalar(entry, where) for entry in setting], t, where)
    for entry in setting:
        if not isinstance(entry, Mapping) or not {"value"} <= entry.keys() <= {"value", "filter"}:
            raise ConfigError(f"{where}: {entry!r} is no value with a filter")
        if _reaches(entry.get("filter"), cell, where):
            return value_at(entry["value"], cell, t, where)
    return None


def grouped(values: Mapping[Cell, Value], layers: int) -> Value | dict[str, Value]:
    """The same values by our groups, as few as say it: one value where all cells agree."""
    common = Counter(values.values()).most_common(1)[0][0]
    odd = {cell: value for cell, value in values.items() if value != common}
    if not odd:
        return common
    found: dict[str, Value] = {"all": common}
    for cell in (EMBED, NORM, HEAD):
        if cell in odd:
            found[cell.module] = odd[cell]

    def layer(i: int) -> Value | None:
        """The value of a layer whose modules agree; None where they do not."""
        inside = {values[Cell(i, module)] for module in MODULES}
        return inside.pop() if len(inside) == 1 else None

    def module(name: str, i: int) -> Value | None:
        return values[Cell(i, name)] if layer(i) is None else None

    for first, last, value in _runs(layer, layers):
        if value != common:
            found[_span(first, last)] = value
    for name in MODULES:
        for first, last, value in _runs(partial(module, name), layers):
            if value != common:
                found[f"{_span(first, last)}.{name}"] = value
    return found


def conditions(values: Mapping[Cell, Value], layers: int) -> Any:
    """The same values as mergekit says them: one, or a list of filters with gradients."""
    if len(set(values.values())) == 1:
        return next(iter(values.values()))

    def along(module: str) -> Value | list[Value]:
        found = [values[Cell(i, module)] for i in range(layers)]
        return found[0] if len(set(found)) == 1 else found

    return [
        {"filter": "embed_tokens", "value": values[EMBED]},
        {"filter": "lm_head", "value": values[HEAD]},
        {"filter": "model.norm", "value": values[NORM]},
        {"filter": "self_attn", "value": along("attn")},
        {"filter": "mlp", "value": along("mlp")},
        {"value": along("norm")},
    ]


def _scalar(value: object, where: str) -> Any:
    if isinstance(value, str):  # YAML 1.1 reads 1e-5 as text
        try:
            return float(value)
        except ValueError:
            pass
    elif isinstance(value, bool | int | float):
        return value
    raise ConfigError(f"{where}: {value!r} is no number")


def _gradient(values: Sequence[Any], t: float, where: str) -> Any:
    """Between the values, evenly spread over [0, 1]."""
    if len(set(map(type, values)) & {bool}):
        raise ConfigError(f"{where}: a switch has no gradient")
    place = t * (len(values) - 1)
    low = int(place)
    high = min(len(values) - 1, low + 1)
    return (1 - (place - low)) * values[low] + (place - low) * values[high]


def _reaches(wanted: object, cell: Cell, where: str) -> bool:
    if wanted is None or wanted == "*":
        return True
    if not isinstance(wanted, str) or not wanted:
        raise ConfigError(f"{where}: {wanted!r} is no filter")
    found = {wanted in name for name in names_of(cell)}
    if len(found) > 1:
        raise ConfigError(
            f"{where}: the filter {wanted!r} reaches only some tensors of {cell}; vlmmerge's groups"
            " are embed, head, norm and a layer's attn, mlp and norm"
        )
    return found.pop()


def _runs(value: Callable[[int], Value | None], layers: int) -> Iterable[tuple[int, int, Value]]:
    """Stretches of layers of one value: (first, last, value)."""
    first = 0
    for i in range(1, layers + 1):
        if i == layers or value(i) != value(first):
            found = value(first)
            if found is not None:
                yield first, i - 1, found
            first = i


def _span(first: int, last: int) -> str:
    return f"layers.{first}" if first == last else f"layers.{first}-{last}"
