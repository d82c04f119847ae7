"""Live tensors from checkpoints: in place where they lie as they live, else rebuilt."""

import math
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from vlmmerge.anatomy import RECIPIENT, Alignment
from vlmmerge.anatomy.layout import Unit
from vlmmerge.checkpoints import Checkpoint, torch_dtype
from vlmmerge.checkpoints.delta import Adapted
from vlmmerge.checkpoints.mapping import Mappings
from vlmmerge.checkpoints.statistics import Kind, SavedStatistics
from vlmmerge.checkpoints.writer import as_bytes
from vlmmerge.errors import CheckpointError
from vlmmerge.methods.operands import Held, View

if TYPE_CHECKING:
    import torch


class LiveTensors:
    """Reads the models of an alignment by the names that their tensors have once loaded.

    The last rebuilt unit of each model is kept: what is stored as one tensor often lives as many.
    Numbers that are not finite are refused, unless they are allowed. Raises `CheckpointError` where
    tensors that a config ties are stored apart and differ: transformers would not tie them.
    `hold`: what is rebuilt, or changed by adapters, is made once and kept, for who reads it again.
    """

    def __init__(
        self, alignment: Alignment, allow_nonfinite: bool = False, hold: bool = False
    ) -> None:
        self._allow_nonfinite, self._hold = allow_nonfinite, hold
        self._layouts = alignment.layouts
        models = alignment.models
        self._checkpoints: dict[str, Checkpoint] = {RECIPIENT: models.recipient, **models.sources}
        self._mappings = Mappings()
        self._lock = threading.Lock()
        self._statistics = {
            model: SavedStatistics.open(checkpoint.source.statistics)
            for model, checkpoint in self._checkpoints.items()
            if checkpoint.source.statistics is not None
        }
        self._rebuilt: dict[str, tuple[Unit, dict[str, torch.Tensor]]] = {}
        for model, layout in self._layouts.items():
            for live, again in layout.also.items():
                _check_tied(self._checkpoints[model], layout.units[live].stored[0], again)

    def view(self, model: str, live: str) -> View:
        """One live tensor of the recipient or a source, as a matrix of rows, in its stored dtype.

        Nothing of it is read yet; `check` looks whether its numbers are finite.
        """
        base = self._view(model, live)
        if (delta := self._layouts[model].deltas.get(live)) is None:
            return base
        whole = self._hold or delta.whole or len(delta.shape) < 2
        return AdaptedRows(base, delta, whole, lambda rows: self._adapted(rows, model, live))

    def _view(self, model: str, live: str) -> View:
        unit = self._layouts[model].units[live]
        if unit.rebuilding is None:
            info = self._checkpoints[model].tensors[unit.stored[0]]
            found = self._mappings.tensor(info)
            if found is not None:
                return Held(found.reshape(matrix(info.shape)))
        return Rebuilt(self, model, live, self._hold)

    def check(self, model: str, live: str) -> None:
        """Raise `CheckpointError` where a number of a tensor that lies in place is not finite.

        Others are looked at whenever they are read.
        """
        unit = self._layouts[model].units[live]
        if unit.rebuilding is None:
            found = self._mappings.tensor(self._checkpoints[model].tensors[unit.stored[0]])
            if found is not None:
                self._check(found, model, live)

    def statistic(self, model: str, live: str, kind: Kind) -> View | None:
        """A live tensor's Fisher information or Gram matrix, where the model came with one.

        Raises `CheckpointError` where it is of another model.
        """
        if model not in self._statistics:
            return None
        columns = matrix(self.shape(model, live))[1]
        wanted = self.shape(model, live) if kind == "fisher" else (columns, columns)
        info = self._statistics[model].info(live, kind, wanted)
        found = None if info is None else self._mappings.tensor(info)
        return None if found is None else Held(found.reshape(matrix(wanted)))

    def release(self, model: str, live: str) -> None:
        """Let go of what a view of this tensor has in memory."""
        for name in self._layouts[model].units[live].stored:
            self._mappings.release(self._checkpoints[model].tensors[name])
        if model in self._statistics:
            for tensors in self._statistics[model].tensors.values():
                if live in tensors:
                    self._mappings.release(tensors[live])

    def shape(self, model: str, live: str) -> tuple[int, ...]:
        unit = self._layouts[model].units[live]
        if unit.rebuilding is None:
            return self._checkpoints[model].tensors[unit.stored[0]].shape
        return unit.rebuilding.shapes[live]

    def dtype(self, model: str, live: str) -> "torch.dtype":
        stored = self._layouts[model].units[live].stored[0]
        return torch_dtype(self._checkpoints[model].tensors[stored].dtype)

    def read(self, model: str, live: str) -> "torch.Tensor":
        """One live tensor, copied into memory in its stored dtype.

        What an adapter changes is float32. Raises `CheckpointError` where a number is not finite.
        """
        tensor = self.stored(model, live)
        delta = self._layouts[model].deltas.get(live)
        return tensor if delta is None else self._adapted(delta.rows(tensor), model, live)

    def stored(self, model: str, live: str) -> "torch.Tensor":
        """The same without what an adapter changes."""
        with self._lock:
            tensor = self._read(model, live)
        self._check(tensor, model, live)
        return tensor

    def _adapted(self, rows: "torch.Tensor", model: str, live: str) -> "torch.Tensor":
        adapter = self._checkpoints[model].adapter
        if adapter is not None and not self._allow_nonfinite:
            _refuse_nonfinite(rows, adapter.path, live)
        return rows

    def _read(self, model: str, live: str) -> "torch.Tensor":
        unit = self._layouts[model].units[live]
        checkpoint = self._checkpoints[model]
        if model not in self._rebuilt or self._rebuilt[model][0] is not unit:
            self._rebuilt.pop(model, None)
            stored = {name: checkpoint.read(name) for name in unit.stored}
            self._rebuilt[model] = (unit, unit.load(stored))
        return self._rebuilt[model][1][live]

    def _check(self, tensor: "torch.Tensor", model: str, live: str) -> None:
        if not self._allow_nonfinite:
            _refuse_nonfinite(tensor, self._checkpoints[model].path, live)


@dataclass(frozen=True)
class Rebuilt:
    """A tensor that does not lie on disk as it lives: read whole, when it is looked at.

    `hold`: it is then kept.
    """

    tensors: LiveTensors
    model: str
    live: str
    hold: bool = False

    @property
    def dtype(self) -> "torch.dtype":
        return self.tensors.dtype(self.model, self.live)

    def read(self, first: int, last: int) -> "torch.Tensor":
        return (self._held if self.hold else self._whole())[first:last]

    @cached_property
    def _held(self) -> "torch.Tensor":
        return self._whole()

    def _whole(self) -> "torch.Tensor":
        whole = self.tensors.stored(self.model, self.live)
        return whole.reshape(matrix(whole.shape))


@dataclass(frozen=True)
class AdaptedRows:
    """A tensor that an adapter changes, float32: made span by span of its base, or `whole`."""

    base: View
    delta: Adapted
    whole: bool
    check: Callable[["torch.Tensor"], "torch.Tensor"]

    @property
    def dtype(self) -> "torch.dtype":
        import torch

        return torch.float32

    def read(self, first: int, last: int) -> "torch.Tensor":
        if self.whole:
            return self._whole[first:last]
        shape = self.delta.shape
        per = math.prod(shape[1:-1])  # rows of an expert; of a matrix 1
        low, high = first // per, -(-last // per)
        base = self.base.read(low * per, high * per).reshape(high - low, *shape[1:])
        found = self.check(self.delta.rows(base, low)).reshape(-1, shape[-1])
        return found[first - low * per : last - low * per]

    @cached_property
    def _whole(self) -> "torch.Tensor":
        shape = self.delta.shape
        rows, columns = matrix(shape)
        base = self.base.read(0, rows).reshape(shape)
        return self.check(self.delta.rows(base)).reshape(rows, columns)


def matrix(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of a tensor: its last dimension the columns; a vector is one row."""
    columns = shape[-1] if shape else 1
    return math.prod(shape[:-1]), columns


def check_finite(checkpoint: Checkpoint, names: Iterable[str]) -> None:
    """Raise `CheckpointError` where a stored tensor of these names is not finite."""
    for name in names:
        tensor = checkpoint.read(name)
        if tensor.is_floating_point():
            _refuse_nonfinite(tensor, checkpoint.path, name)


def _check_tied(checkpoint: Checkpoint, first: str, again: Iterable[str]) -> None:
    for name in again:
        if as_bytes(checkpoint.read(name)) != as_bytes(checkpoint.read(first)):
            raise CheckpointError(
                f"{checkpoint.path}: {name} and {first} are tied by its config and differ; set"
                " tie_word_embeddings to false in its config.json"
            )


def _refuse_nonfinite(tensor: "torch.Tensor", path: Path, name: str) -> None:
    import torch

    # The sum is finite only if all numbers are, and needs no copy of them; it may overflow where
    # they are, so only then is each looked at. What fits in a byte torch neither sums nor looks at.
    numbers = tensor if tensor.itemsize > 1 else tensor.float()
    total = numbers.sum(dtype=torch.float32)
    if not bool(total.isfinite()) and not bool(numbers.isfinite().all()):
        raise CheckpointError(
            f"{path}: {name} holds NaN or infinite numbers; allow_nonfinite=true merges it all the"
            " same"
        )
