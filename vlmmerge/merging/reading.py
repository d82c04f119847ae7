"""Live tensors from checkpoints: what is stored in pieces is read and rebuilt as it is loaded."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from vlmmerge.anatomy import RECIPIENT, Alignment
from vlmmerge.anatomy.layout import Unit
from vlmmerge.checkpoints import Checkpoint
from vlmmerge.checkpoints.writer import as_bytes
from vlmmerge.errors import CheckpointError

if TYPE_CHECKING:
    import torch


class LiveTensors:
    """Reads the models of an alignment by the names that their tensors have once loaded.

    The last rebuilt unit of each model is kept: what is stored as one tensor often lives as many.
    Numbers that are not finite are refused, unless they are allowed. Raises `CheckpointError` where
    tensors that a config ties are stored apart and differ: transformers would not tie them.
    """

    def __init__(self, alignment: Alignment, allow_nonfinite: bool = False) -> None:
        self._allow_nonfinite = allow_nonfinite
        self._layouts = alignment.layouts
        models = alignment.models
        self._checkpoints: dict[str, Checkpoint] = {RECIPIENT: models.recipient, **models.sources}
        self._rebuilt: dict[str, tuple[Unit, dict[str, torch.Tensor]]] = {}
        for model, layout in self._layouts.items():
            for live, again in layout.also.items():
                _check_tied(self._checkpoints[model], layout.units[live].stored[0], again)

    def read(self, model: str, live: str) -> "torch.Tensor":
        """One live tensor of the recipient or a source, in its stored dtype.

        Raises `CheckpointError` where a number in it is not finite.
        """
        tensor = self._read(model, live)
        if not self._allow_nonfinite:
            _refuse_nonfinite(tensor, self._checkpoints[model], live)
        return tensor

    def _read(self, model: str, live: str) -> "torch.Tensor":
        unit = self._layouts[model].units[live]
        checkpoint = self._checkpoints[model]
        if unit.rebuilding is None:
            return checkpoint.read(unit.stored[0])
        if model not in self._rebuilt or self._rebuilt[model][0] is not unit:
            self._rebuilt.pop(model, None)
            stored = {name: checkpoint.read(name) for name in unit.stored}
            self._rebuilt[model] = (unit, unit.load(stored))
        return self._rebuilt[model][1][live]


def check_finite(checkpoint: Checkpoint, names: Iterable[str]) -> None:
    """Raise `CheckpointError` where a stored tensor of these names is not finite."""
    for name in names:
        tensor = checkpoint.read(name)
        if tensor.is_floating_point():
            _refuse_nonfinite(tensor, checkpoint, name)


def _check_tied(checkpoint: Checkpoint, first: str, again: Iterable[str]) -> None:
    for name in again:
        if as_bytes(checkpoint.read(name)) != as_bytes(checkpoint.read(first)):
            raise CheckpointError(
                f"{checkpoint.path}: {name} and {first} are tied by its config and differ; set"
                " tie_word_embeddings to false in its config.json"
            )


def _refuse_nonfinite(tensor: "torch.Tensor", checkpoint: Checkpoint, name: str) -> None:
    import torch

    # The sum is finite only if all numbers are, and needs no copy of them; it may overflow where
    # they are, so only then is each looked at. What fits in a byte torch neither sums nor looks at.
    numbers = tensor if tensor.itemsize > 1 else tensor.float()
    total = numbers.sum(dtype=torch.float32)
    if not bool(total.isfinite()) and not bool(numbers.isfinite().all()):
        raise CheckpointError(
            f"{checkpoint.path}: {name} holds NaN or infinite numbers; allow_nonfinite=true"
            " merges it all the same"
        )
