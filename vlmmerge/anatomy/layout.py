"""Layout: how the tensors of a checkpoint make up those of the live model, and back again.

Transformers renames most tensors on loading and rebuilds some: experts stored one by one live
stacked, fused projections live split. Its own conversion mapping says how; nothing is listed here.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from vlmmerge.anatomy.parts import ties_of
from vlmmerge.anatomy.rebuilding import Rebuilding
from vlmmerge.checkpoints.delta import Adapted
from vlmmerge.errors import AlignmentError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


_ROTARY = r"rotary_emb\.inv_freq$"  # computed since; transformers passes over it, too


@dataclass(frozen=True)
class Unit:
    """Stored tensors and the live tensors that they become, most often one and one.

    `rebuilding` is None where the tensor is only renamed.
    """

    stored: tuple[str, ...]
    live: tuple[str, ...]
    rebuilding: Rebuilding | None = None

    def load(self, tensors: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
        """Stored tensors by name to live tensors by name."""
        if self.rebuilding is None:
            return {self.live[0]: tensors[self.stored[0]]}
        return self.rebuilding.load(tensors)

    def save(self, tensors: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
        """Live tensors by name to stored tensors by name: the inverse of `load`."""
        if self.rebuilding is None:
            return {self.stored[0]: tensors[self.live[0]]}
        return self.rebuilding.save(tensors)

    def stored_of(self, live: Collection[str]) -> list[str]:
        """The stored tensors that hold something of the `live` ones."""
        if not live:
            return []
        if self.rebuilding is None or len(self.stored) == 1 or len(self.live) == 1:
            return list(self.stored)
        return self.rebuilding.stored_of(live)


@dataclass(frozen=True)
class Layout:
    """A checkpoint's tensors by the live tensors that they make up.

    `units`: live name -> unit; live tensors that are tied share a name, the first of them.
    `also`: live name -> stored tensors that hold the same tied tensor once more.
    `unknown`: stored tensors that the model does not have; `expected` are those of them that older
    checkpoints have and transformers passes over. `deltas`: live tensors that an adapter changes.
    """

    units: Mapping[str, Unit]
    also: Mapping[str, tuple[str, ...]]
    unknown: tuple[str, ...]
    expected: frozenset[str]
    deltas: Mapping[str, Adapted] = field(default_factory=dict)


def layout_of(shapes: Mapping[str, tuple[int, ...]], model: "PreTrainedModel") -> Layout:
    """The layout of a checkpoint with tensors of these `shapes`, in `model` (on the meta device).

    Raises `AlignmentError` where stored tensors cannot be turned into live ones, or not back.
    """
    state = model.state_dict(keep_vars=True)
    ties = ties_of(state)
    units: dict[str, Unit] = {}
    also: dict[str, tuple[str, ...]] = {}
    unknown: list[str] = []
    # A tied tensor that is stored twice is the first of its live names, as an embedding.
    for unit in sorted(_units(shapes, model), key=lambda unit: unit.live[0] in ties):
        found = [ties.get(name, name) for name in unit.live if name in state]
        if len(found) != len(unit.live):
            unknown += unit.stored
        elif any(name in units for name in found):
            if unit.rebuilding is not None or units[found[0]].rebuilding is not None:
                raise AlignmentError(f"{found[0]} is stored twice, {unit.stored[0]} once more")
            also[found[0]] = (*also.get(found[0], ()), *unit.stored)
        else:
            named = Unit(unit.stored, tuple(found), unit.rebuilding)
            units |= dict.fromkeys(found, named)
    passed = [_ROTARY, *(model._keys_to_ignore_on_load_unexpected or ())]
    expected = frozenset(n for n in unknown if any(re.search(p, n) for p in passed))
    return Layout(MappingProxyType(units), MappingProxyType(also), tuple(unknown), expected)


def _units(shapes: Mapping[str, tuple[int, ...]], model: "PreTrainedModel") -> Iterable[Unit]:
    """The units of a checkpoint, renamed as `from_pretrained` renames."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import (
        WeightRenaming,
        apply_renamings,
        dot_natural_key,
        rename_source_key,
    )

    transforms: list[Any] = get_model_conversion_mapping(model)
    renamings = [t for t in transforms if isinstance(t, WeightRenaming)]
    converters = [t for t in transforms if not isinstance(t, WeightRenaming)]
    by_pattern = {pattern: c for c in converters for pattern in c.source_patterns}
    state = model.state_dict()
    prefix = model.base_model_prefix

    rebuilt: dict[str, dict[str, tuple[str, str]]] = {}  # first live name -> stored -> ...
    for stored in sorted(shapes, key=dot_natural_key):
        live, pattern = rename_source_key(stored, renamings, converters, prefix, state)
        if live not in state and stored in state:
            live, pattern = stored, None
        if pattern is None:
            yield Unit((stored,), (live,))
        else:
            renamed = apply_renamings(stored, renamings)
            rebuilt.setdefault(live, {})[stored] = (pattern, renamed)
    for live, pieces in rebuilt.items():
        converter = by_pattern[next(iter(pieces.values()))[0]]
        found = {stored: shapes[stored] for stored in pieces}
        rebuilding = Rebuilding.of(converter, live, pieces, found, model)
        if rebuilding is None:
            yield Unit(tuple(pieces), (live,))
        else:
            yield Unit(tuple(pieces), tuple(rebuilding.shapes), rebuilding)
