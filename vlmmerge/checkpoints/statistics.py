"""What a model saw and felt on a few examples, as `vlmmerge statistics` writes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vlmmerge.checkpoints.headers import TensorInfo, read_header
from vlmmerge.errors import CheckpointError

Kind = Literal["fisher", "gram"]
KINDS: tuple[Kind, ...] = ("fisher", "gram")


@dataclass(frozen=True)
class SavedStatistics:
    """A folder of fisher.safetensors and gram.safetensors, float32, named as live tensors are.

    `fisher` has the diagonal of the Fisher information of every backbone tensor, of its shape;
    `gram` the Gram matrix of the inputs of every linear layer, [columns, columns].
    """

    path: Path
    tensors: Mapping[Kind, Mapping[str, TensorInfo]]

    @classmethod
    def open(cls, folder: str | Path) -> "SavedStatistics":
        """Read the headers. Raises `CheckpointError` where a file is missing or damaged."""
        path = Path(folder).expanduser()
        for kind in KINDS:
            if not file_of(path, kind).exists():
                raise CheckpointError(
                    f"{path}: has no {kind}.safetensors; make it by `vlmmerge statistics`"
                )
        return cls(path, {kind: read_header(file_of(path, kind)) for kind in KINDS})

    def info(self, live: str, kind: Kind, shape: tuple[int, ...]) -> TensorInfo | None:
        """Where a tensor's statistic lies; None of a Gram matrix of what is no linear layer.

        Raises `CheckpointError` where the folder is of a model that has no such tensor.
        """
        known = self.tensors[kind].get(live)
        if known is None and kind == "gram":
            return None
        if known is None or known.shape != shape or known.dtype != "F32":
            raise CheckpointError(
                f"{self.path}: are not this model's statistics: {kind} of {live} is not there as"
                f" float32 {list(shape)}"
            )
        return known


def file_of(folder: Path, kind: Kind) -> Path:
    return folder / f"{kind}.safetensors"
