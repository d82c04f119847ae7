"""A recipe to a model folder: one tensor at a time, from the sources' shards to the output's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vlmmerge.anatomy import RECIPIENT, Alignment, Meeting, align
from vlmmerge.checkpoints import Checkpoint, torch_dtype
from vlmmerge.checkpoints.appearing import absolute, appearing, check_absent
from vlmmerge.checkpoints.moving import digest_range
from vlmmerge.checkpoints.writer import (
    MAX_SHARD_SIZE,
    Advance,
    Planned,
    as_bytes,
    quiet,
    write_weights,
)
from vlmmerge.errors import CheckpointError, ConfigError
from vlmmerge.merging.combine import combine, gather, store
from vlmmerge.merging.companions import write_companions
from vlmmerge.merging.reading import LiveTensors, check_finite
from vlmmerge.recipes import Recipe

if TYPE_CHECKING:
    import torch

_SAFETENSORS_NAMES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


@dataclass(frozen=True)
class Written:
    """What a merge wrote: stored tensors by fate. `changed` counts frozen ones that differ (0)."""

    path: Path
    merged: int
    frozen: int
    copied: int
    changed: int


def write_merge(
    recipe: Recipe,
    output: Path,
    card: Callable[[Alignment], str] | None = None,
    *,
    strict: bool = False,
    allow_nonfinite: bool = False,
    max_shard_size: int | str = MAX_SHARD_SIZE,
    progress: Advance = quiet,
) -> Written:
    """Merge `recipe` into the folder `output`, which appears whole or not at all.

    Config, tokenizer, processor and generation files are the recipient's; `card` writes its README.
    """
    alignment = align(recipe.models.open(), strict, recipe.vocabulary, recipe.embeddings)
    recipe.check_layers(alignment.layers)
    output = absolute(output)
    check_apart(output, alignment)
    check_absent(output)
    alignment = alignment.fetched()
    recipient = alignment.models.recipient
    dtypes = stored_dtypes(recipe, alignment)
    produce = _Producer(recipe, alignment, dtypes, allow_nonfinite)
    rewritten = set(alignment.merged)
    shapes = grown_shapes(alignment)
    plan = [
        Planned(
            name,
            dtypes[name],
            shapes.get(name, info.shape),
            None if name in rewritten or info.scaled is not None else info,
        )
        for name, info in recipient.tensors.items()
    ]
    if not allow_nonfinite:
        check_finite(recipient, frozen_weights(alignment))
    with appearing(output) as folder:
        write_weights(folder, plan, produce, max_shard_size, progress)
        write_companions(alignment, folder, recipe.dtype)
        if card is not None:
            (folder / "README.md").write_text(card(alignment), encoding="utf-8")
        changed = count_changed(recipient, Checkpoint.open(folder), alignment)
        if changed:
            raise CheckpointError(
                f"{output}: {changed} frozen tensors were not written as they are"
            )
    merged, frozen, copied = alignment.merged, alignment.frozen, alignment.copied
    return Written(output, len(merged), len(frozen), len(copied), changed)


class _Producer:
    """Merged tensors as they are stored, made when they are first asked for.

    A unit of several stored tensors is merged at once and kept until all of them are written.
    """

    def __init__(
        self,
        recipe: Recipe,
        alignment: Alignment,
        dtypes: Mapping[str, str],
        allow_nonfinite: bool,
    ) -> None:
        self._recipe, self._dtypes, self._allow_nonfinite = recipe, dtypes, allow_nonfinite
        self._read = LiveTensors(alignment, allow_nonfinite).read
        self._meetings = {meeting.live: meeting for meeting in alignment.meetings}
        self._merged = set(alignment.merged)
        layout = alignment.layouts[RECIPIENT]
        self._recipient = alignment.models.recipient
        self._units = {name: unit for unit in layout.units.values() for name in unit.stored}
        self._twins = {again: live for live, names in layout.also.items() for again in names}
        self._made: dict[str, torch.Tensor] = {}

    def __call__(self, name: str) -> "torch.Tensor":
        if name in self._twins:  # a tied tensor that is stored once more
            return self._merge(self._twins[name])
        if name not in self._made:
            if name not in self._merged:
                return self._recipient.read(name)  # dequantised
            unit = self._units[name]
            pieces = unit.save({live: self._merge(live) for live in unit.live})
            self._made |= {n: piece for n, piece in pieces.items() if n in self._merged}
        return self._made.pop(name).to(torch_dtype(self._dtypes[name]))

    def _merge(self, live: str) -> "torch.Tensor":
        tensor = self._read(RECIPIENT, live)
        if live not in self._meetings:  # frozen, in one unit with what is merged
            return tensor
        meeting = self._meetings[live]
        operands = gather(self._recipe, meeting, tensor, self._read)
        merged = combine(self._recipe, meeting, operands)
        dtype = torch_dtype(merged_dtype(self._recipe, meeting))
        return store(merged, dtype, live, self._allow_nonfinite)


def grown_shapes(alignment: Alignment) -> dict[str, tuple[int, ...]]:
    """Shapes of stored tensors that are longer by donors' tokens."""
    layout = alignment.layouts[RECIPIENT]
    return {
        name: (meeting.added.length, *alignment.anatomy.backbone[meeting.live][1:])
        for meeting in alignment.meetings
        if meeting.added is not None
        for name in (*layout.units[meeting.live].stored, *layout.also.get(meeting.live, ()))
    }


def merged_dtype(recipe: Recipe, meeting: Meeting) -> str:
    """The safetensors dtype that a merged tensor is saved in."""
    return meeting.dtype if recipe.dtype is None else _SAFETENSORS_NAMES[recipe.dtype]


def stored_dtypes(recipe: Recipe, alignment: Alignment) -> dict[str, str]:
    """The safetensors dtype that each of the recipient's tensors is saved in."""
    dtypes = {name: info.dtype for name, info in alignment.models.recipient.tensors.items()}
    if recipe.dtype is not None:
        dtypes |= dict.fromkeys(alignment.merged, _SAFETENSORS_NAMES[recipe.dtype])
    return dtypes


def frozen_weights(alignment: Alignment) -> list[str]:
    """The frozen stored tensors that hold weights; a buffer's bounds may well be infinite."""
    anatomy, layout = alignment.anatomy, alignment.layouts[RECIPIENT]
    weights = {
        name
        for unit in layout.units.values()
        if not anatomy.buffers.issuperset(unit.live)
        for name in unit.stored
    }
    return [name for name in alignment.frozen if name in weights]


def check_apart(output: Path, alignment: Alignment) -> None:
    """Raise `ConfigError` where the output folder is a source, lies in one, or holds one."""
    written = output.resolve()
    for checkpoint in (alignment.models.recipient, *alignment.models.sources.values()):
        read = checkpoint.path.resolve()
        if written == read or read in written.parents:
            raise ConfigError(f"{output}: lies in {read}, which is to be merged; choose another")
        if written in read.parents:
            raise ConfigError(f"{output}: holds {read}, which is to be merged; choose another")


def count_changed(before: Checkpoint, after: Checkpoint, alignment: Alignment) -> int:
    """How many frozen and copied tensors of `before` are lost in `after` or differ in any byte."""

    def same(name: str) -> bool:
        if name not in after.tensors:
            return False
        old, new = before.tensors[name], after.tensors[name]
        if (old.dtype, old.shape) != (new.dtype, new.shape):
            return False
        if old.scaled is None:
            return digest_range(old) == digest_range(new)
        return as_bytes(before.read(name)) == as_bytes(after.read(name))

    return sum(not same(name) for name in (*alignment.frozen, *alignment.copied))


def verify_frozen(recipe: Recipe, folder: Path) -> dict[str, int]:
    """How many frozen tensors a written merge has, and how many of them differ (0)."""
    alignment = align(recipe.models.open(), False, recipe.vocabulary, recipe.embeddings)
    changed = count_changed(alignment.models.recipient, Checkpoint.open(folder), alignment)
    return {"tensors": len(alignment.frozen) + len(alignment.copied), "changed": changed}
