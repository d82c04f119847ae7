"""A recipe to a model folder: one tensor at a time, from the sources' shards to the output's."""

from collections.abc import Callable, Iterator, Mapping
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
from vlmmerge.merging.companions import write_companions
from vlmmerge.merging.extracting import Extracted, write_adapter
from vlmmerge.merging.reading import LiveTensors, check_finite, matrix
from vlmmerge.merging.targets import check_extractable
from vlmmerge.merging.tensor import MergedTensor, not_finite
from vlmmerge.methods.kernels import ModelCuts, Workers
from vlmmerge.recipes import Recipe

if TYPE_CHECKING:
    import torch

_SAFETENSORS_NAMES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


@dataclass(frozen=True)
class Written:
    """What a merge wrote: stored tensors by fate. `changed` counts frozen ones that differ (0).

    `adapter`: what was written beside it.
    """

    path: Path
    merged: int
    frozen: int
    copied: int
    changed: int
    adapter: Extracted | None = None


def write_merge(
    recipe: Recipe,
    output: Path,
    card: Callable[[Alignment], str] | None = None,
    *,
    strict: bool = False,
    allow_nonfinite: bool = False,
    max_shard_size: int | str = MAX_SHARD_SIZE,
    threads: int | None = None,
    adapter: int | None = None,
    progress: Advance = quiet,
) -> Written:
    """Merge `recipe` into the folder `output`, which appears whole or not at all.

    Config, tokenizer, processor and generation files are the recipient's; `card` writes its README;
    `adapter`: the rank of one that is written into it, which makes the merge of the recipient.
    """
    alignment = aligned(recipe, strict)
    recipe.check_layers(alignment.layers)
    output = absolute(output)
    check_apart(output, alignment)
    check_absent(output)
    targets = None if adapter is None else check_extractable(recipe, alignment, adapter)
    alignment = alignment.fetched()
    recipient = alignment.models.recipient
    dtypes = stored_dtypes(recipe, alignment)
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
    with appearing(output) as folder, Workers(threads) as workers:
        produce = _Producer(recipe, alignment, dtypes, allow_nonfinite, workers)
        write_weights(folder, plan, produce, max_shard_size, progress)
        write_companions(alignment, folder, recipe.dtype)
        if card is not None:
            (folder / "README.md").write_text(card(alignment), encoding="utf-8")
        changed = count_changed(recipient, Checkpoint.open(folder), alignment)
        if changed:
            raise CheckpointError(
                f"{output}: {changed} frozen tensors were not written as they are"
            )
        extracted = None
        if adapter is not None and targets is not None:
            extracted = write_adapter(recipe, alignment, targets, folder, adapter)
    merged, frozen, copied = alignment.merged, alignment.frozen, alignment.copied
    return Written(output, len(merged), len(frozen), len(copied), changed, extracted)


def aligned(recipe: Recipe, strict: bool = False) -> Alignment:
    """A recipe's models lined up, from configs and headers alone."""
    models, by_token = recipe.models.open(), (recipe.vocabulary, recipe.embeddings)
    return align(models, strict, *by_token, drop_frozen=recipe.drop_frozen)


class _Producer:
    """Merged tensors as they are stored, in blocks of rows, made when they are asked for.

    A unit of several stored tensors is merged at once and kept until all of them are written.
    """

    def __init__(
        self,
        recipe: Recipe,
        alignment: Alignment,
        dtypes: Mapping[str, str],
        allow_nonfinite: bool,
        workers: Workers,
    ) -> None:
        self._recipe, self._dtypes, self._allow_nonfinite = recipe, dtypes, allow_nonfinite
        self._workers = workers
        self._tensors = LiveTensors(alignment, allow_nonfinite)
        cuts = ModelCuts()
        donors = list(recipe.models.donors)
        self._meeting = {
            meeting.live: MergedTensor(meeting, donors, self._tensors, workers, cuts)
            for meeting in alignment.meetings
        }
        cuts.tensors = [tensor.measured for tensor in self._meeting.values()]
        self._merged = set(alignment.merged)
        layout = alignment.layouts[RECIPIENT]
        self._recipient = alignment.models.recipient
        self._units = {name: unit for unit in layout.units.values() for name in unit.stored}
        self._twins = {again: live for live, names in layout.also.items() for again in names}
        self._made: dict[str, torch.Tensor] = {}

    def __call__(self, name: str) -> "Iterator[torch.Tensor]":
        if name in self._twins:  # a tied tensor that is stored once more
            yield from self._blocks(self._twins[name])
        elif name not in self._merged:
            yield self._recipient.read(name)  # dequantised
        elif self._units[name].rebuilding is None:
            yield from self._blocks(self._units[name].live[0])
        else:
            yield self._piece(name).to(torch_dtype(self._dtypes[name]))

    def _blocks(self, live: str) -> "Iterator[torch.Tensor]":
        """A merged live tensor, block by block of its rows."""
        import torch

        tensor = self._meeting[live]
        form = tensor.form(self._recipe)
        dtype = torch_dtype(merged_dtype(self._recipe, tensor.meeting))
        columns = matrix(tensor.shape)[1]

        def make(span: tuple[int, int]) -> torch.Tensor:
            out = torch.empty(span[1] - span[0], columns, dtype=dtype)
            if not tensor.merge(form, span, dtype, out) and not self._allow_nonfinite:
                raise not_finite(live, dtype)
            return out

        yield from self._workers.map(make, tensor.spans)
        for model, met in {RECIPIENT: live, **tensor.meeting.sources}.items():
            self._tensors.release(model, met)

    def _piece(self, name: str) -> "torch.Tensor":
        """A stored tensor of a unit that transformers rebuilds."""
        import torch

        if name not in self._made:
            unit = self._units[name]
            whole = {
                live: torch.cat(list(self._blocks(live))).reshape(self._meeting[live].shape)
                if live in self._meeting
                else self._tensors.read(RECIPIENT, live)  # frozen, in one unit with what is merged
                for live in unit.live
            }
            self._made |= {n: t for n, t in unit.save(whole).items() if n in self._merged}
        return self._made.pop(name)


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
        adapter = [] if checkpoint.adapter is None else [checkpoint.adapter.path]
        for read in (path.resolve() for path in (checkpoint.path, *adapter)):
            if written == read or read in written.parents:
                raise ConfigError(
                    f"{output}: lies in {read}, which is to be merged; choose another"
                )
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
    alignment = aligned(recipe)
    changed = count_changed(alignment.models.recipient, Checkpoint.open(folder), alignment)
    return {"tensors": len(alignment.frozen) + len(alignment.copied), "changed": changed}
