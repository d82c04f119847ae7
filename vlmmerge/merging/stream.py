"""A recipe to a model folder: one tensor at a time, from the sources' shards to the output's."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vlmmerge.anatomy import Alignment, align
from vlmmerge.checkpoints import Checkpoint, TensorInfo, torch_dtype
from vlmmerge.checkpoints.checkpoint import INDEX
from vlmmerge.checkpoints.writer import appearing, as_bytes, write_shard
from vlmmerge.errors import CheckpointError, ConfigError
from vlmmerge.merging.combine import Read, combine, gather, store
from vlmmerge.recipes import Recipe

if TYPE_CHECKING:
    import torch

_SAFETENSORS_NAMES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_COMPANIONS = ("*.json", "*.txt", "*.model", "*.jinja")


@dataclass(frozen=True)
class Written:
    """What a merge wrote: tensors by fate. `changed` counts frozen tensors that differ (0)."""

    path: Path
    merged: int
    frozen: int
    copied: int
    changed: int


def write_merge(recipe: Recipe, output: Path, card: str | None = None) -> Written:
    """Merge `recipe` into the folder `output`, which appears whole or not at all.

    Config, tokenizer, processor and generation files are the recipient's; `card` is its README.
    """
    alignment = align(recipe.models.open())
    recipe.check_layers(alignment.layers)
    recipient = alignment.models.recipient
    if output.resolve() in (source.path.resolve() for source in _all(alignment)):
        raise ConfigError(f"{output}: is one of the models to be merged")
    dtypes = stored_dtypes(recipe, alignment)
    meetings = {meeting.target: meeting for meeting in alignment.merged}

    def produce(info: TensorInfo) -> "torch.Tensor":
        tensor = recipient.read(info.name)
        if info.name not in meetings:
            return tensor
        meeting = meetings[info.name]
        operands = gather(recipe, meeting, tensor, reader(alignment))
        merged = combine(recipe, meeting, operands)
        return store(merged, torch_dtype(dtypes[info.name]), info.name)

    with appearing(output) as folder:
        for shard in recipient.shards:
            infos = [info for info in recipient.tensors.values() if info.shard == shard]
            write_shard(folder / shard.name, infos, dtypes, produce)
        _write_companions(recipient, folder, recipe.dtype, dtypes)
        if card is not None:
            (folder / "README.md").write_text(card, encoding="utf-8")
        changed = count_changed(recipient, Checkpoint.open(folder), alignment)
        if changed:
            raise CheckpointError(
                f"{output}: {changed} frozen tensors were not written as they are"
            )
    return Written(
        output, len(alignment.merged), len(alignment.frozen), len(alignment.copied), changed
    )


def stored_dtypes(recipe: Recipe, alignment: Alignment) -> dict[str, str]:
    """The safetensors dtype that each of the recipient's tensors is saved in."""
    dtypes = {name: info.dtype for name, info in alignment.models.recipient.tensors.items()}
    if recipe.dtype is not None:
        for meeting in alignment.merged:
            dtypes[meeting.target] = _SAFETENSORS_NAMES[recipe.dtype]
    return dtypes


def reader(alignment: Alignment) -> Read:
    """Reads a tensor of a source from its checkpoint."""
    sources = alignment.models.sources
    return lambda source, name: sources[source].read(name)


def count_changed(before: Checkpoint, after: Checkpoint, alignment: Alignment) -> int:
    """How many frozen and copied tensors of `before` are lost in `after` or differ in any byte."""

    def same(name: str) -> bool:
        if name not in after.tensors:
            return False
        old, new = before.tensors[name], after.tensors[name]
        return (old.dtype, old.shape) == (new.dtype, new.shape) and as_bytes(
            before.read(name)
        ) == as_bytes(after.read(name))

    return sum(not same(name) for name in (*alignment.frozen, *alignment.copied))


def verify_frozen(recipe: Recipe, folder: Path) -> dict[str, int]:
    """How many frozen tensors a written merge has, and how many of them differ (0)."""
    alignment = align(recipe.models.open())
    changed = count_changed(alignment.models.recipient, Checkpoint.open(folder), alignment)
    return {"tensors": len(alignment.frozen) + len(alignment.copied), "changed": changed}


def _write_companions(
    recipient: Checkpoint, folder: Path, dtype: str | None, dtypes: dict[str, str]
) -> None:
    for pattern in _COMPANIONS:
        for file in sorted(recipient.path.glob(pattern)):
            shutil.copyfile(file, folder / file.name)
    if dtype is None:
        return
    config = {**recipient.config, "dtype": dtype}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if (folder / INDEX).exists():
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        total = sum(info.nbytes for info in Checkpoint.open(folder).tensors.values())
        index["metadata"] = {**index.get("metadata", {}), "total_size": total}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _all(alignment: Alignment) -> list[Checkpoint]:
    return [alignment.models.recipient, *alignment.models.sources.values()]
