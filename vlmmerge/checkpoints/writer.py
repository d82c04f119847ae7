"""Model folders that appear whole or not at all: written beside, then renamed."""

import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmmerge.checkpoints.headers import BITS, TensorInfo
from vlmmerge.errors import ConfigError

if TYPE_CHECKING:
    import torch


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """A folder to fill, renamed to `folder` when all went well and removed when not.

    Raises `ConfigError` where `folder` exists and is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: exists already; choose another output")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed run
    partial.mkdir()
    try:
        yield partial
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_shard(
    path: Path,
    tensors: Sequence[TensorInfo],
    dtypes: dict[str, str],
    produce: Callable[[TensorInfo], "torch.Tensor"],
) -> None:
    """Write a safetensors file tensor by tensor, in the order and with the shapes of `tensors`.

    `dtypes` gives each tensor's stored dtype; `produce` returns it, one at a time.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for info in tensors:
        size = info.elements * BITS[dtypes[info.name]] // 8
        header[info.name] = {
            "dtype": dtypes[info.name],
            "shape": list(info.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for info in tensors:
            file.write(as_bytes(produce(info)))
        file.flush()
        os.fsync(file.fileno())


def as_bytes(tensor: "torch.Tensor") -> memoryview:
    """The tensor's elements as stored, row by row."""
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    elements: Any = flat.view(torch.uint8).numpy()
    return memoryview(elements)
