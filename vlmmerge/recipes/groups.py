"""Groups: how a recipe names sets of backbone cells.

`all embed norm head layers.I layers.I-J`, the last two also with `.attn .mlp .norm`. Where several
keys cover a cell the narrowest wins; keys of equal width that overlap are an error.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from vlmmerge.anatomy.cells import MODULES, Cell
from vlmmerge.errors import ConfigError

_LAYERS = re.compile(r"layers\.(\d+)(?:-(\d+))?(?:\.(attn|mlp|norm))?")
_OUTSIDE = ("embed", "norm", "head")

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """A set of cells: everything, one cell outside the layers, or a span of layers."""

    key: str
    outside: str | None = None
    first: int | None = None
    last: int | None = None
    module: str | None = None

    @classmethod
    def parse(cls, key: str, where: str) -> "Group":
        """Read a group's key; `ConfigError` naming `where` if it is none."""
        if key == "all":
            return cls(key)
        if key in _OUTSIDE:
            return cls(key, outside=key)
        if match := _LAYERS.fullmatch(key):
            first = int(match[1])
            last = first if match[2] is None else int(match[2])
            if first > last:
                raise ConfigError(f"{where}: {key!r} counts backwards")
            return cls(key, first=first, last=last, module=match[3])
        raise ConfigError(
            f"{where}: {key!r} is no group; use all, embed, norm, head, layers.I or layers.I-J,"
            " the last two also with .attn, .mlp or .norm"
        )

    @property
    def width(self) -> float:
        """How many cells it covers; `all` is wider than anything."""
        if self.outside:
            return 1
        if self.first is None or self.last is None:
            return float("inf")
        return (self.last - self.first + 1) * (1 if self.module else len(MODULES))

    def covers(self, cell: Cell) -> bool:
        if self.outside:
            return cell == Cell(None, self.outside)
        if self.first is None or self.last is None:
            return True
        inside = cell.layer is not None and self.first <= cell.layer <= self.last
        return inside and self.module in (None, cell.module)

    def overlaps(self, other: "Group") -> bool:
        if self.key == "all" or other.key == "all":
            return True
        if self.outside or other.outside:
            return self.outside == other.outside
        assert self.first is not None
        assert self.last is not None
        assert other.first is not None
        assert other.last is not None
        apart = self.last < other.first or other.last < self.first
        return not apart and (None in (self.module, other.module) or self.module == other.module)


@lru_cache(maxsize=4096)
def parse_keys(keys: tuple[str, ...], where: str) -> tuple[Group, ...]:
    """The groups of a mapping's keys, narrowest first.

    Raises `ConfigError` for a key that is no group, or two of equal width that overlap.
    """
    groups = sorted((Group.parse(key, where) for key in keys), key=lambda group: group.width)
    for i, group in enumerate(groups):
        for other in groups[i + 1 :]:
            if other.width == group.width and group.overlaps(other):
                raise ConfigError(
                    f"{where}: {group.key} and {other.key} overlap and are equally narrow"
                )
    return tuple(groups)


def lookup(values: T | Mapping[str, T], cell: Cell, where: str) -> T:
    """The value for a cell: of the narrowest group that covers it.

    Raises `ConfigError` where no group does.
    """
    if not isinstance(values, Mapping):
        return values
    for group in parse_keys(tuple(values), where):
        if group.covers(cell):
            found: T = values[group.key]
            return found
    raise ConfigError(f"{where}: no group covers {cell}; add `all`")


def check_depth(keys: Iterable[str], layers: int, where: str) -> None:
    """Refuse groups that name layers which the model does not have."""
    for group in parse_keys(tuple(keys), where):
        if group.last is not None and group.last >= layers:
            raise ConfigError(f"{where}: {group.key} names a layer beyond the last, {layers - 1}")


def samples(keys: Iterable[str]) -> list[Cell]:
    """Cells enough that every combination of values that groups of these keys have is at one."""
    lasts = [group.last for key in keys if (group := Group.parse(key, "")).last is not None]
    layers = range(max(lasts, default=-1) + 2)
    inside = [Cell(layer, module) for layer in layers for module in MODULES]
    return [Cell(None, module) for module in _OUTSIDE] + inside
