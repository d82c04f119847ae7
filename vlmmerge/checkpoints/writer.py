"""The weights of a model folder: shards, an index, and every tensor read again."""

import json
import math
import os
import re
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from vlmmerge.checkpoints.folder import INDEX, SINGLE
from vlmmerge.checkpoints.headers import BITS, TensorInfo, read_header
from vlmmerge.checkpoints.moving import copy_range, digest_range
from vlmmerge.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    import torch

MAX_SHARD_SIZE = "50GB"  # as `save_pretrained`


# Told of what is done and of what there is to do, in bytes.
Advance = Callable[[int, int], None]


def quiet(done: int, total: int) -> None:
    """Progress that nobody looks at."""


@dataclass(frozen=True)
class Planned:
    """A tensor of a model folder to be. `copy`: where its bytes lie already, as they shall be."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    copy: TensorInfo | None = None

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * BITS[self.dtype] // 8


def write_weights(
    folder: Path,
    plan: Sequence[Planned],
    produce: Callable[[str], "Iterable[torch.Tensor]"],
    max_shard_size: int | str = MAX_SHARD_SIZE,
    progress: Advance = quiet,
) -> None:
    """Write the planned tensors into shards as large as `save_pretrained` makes them, and an index.

    `produce` gives what is not copied, by name, block by block in the planned dtype; `progress` is
    told the bytes written and those of all. All is then read again: `CheckpointError` where a
    checksum differs.
    """
    shards, total = split(plan, max_shard_size)
    done = 0

    def advance(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        progress(done, total)

    for name, tensors in shards.items():
        digests = _write_shard(folder / name, tensors, produce, advance)
        _check_shard(folder / name, tensors, digests)
    if len(shards) > 1:
        weight_map = {tensor.name: name for name, tensors in shards.items() for tensor in tensors}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def write_file(
    path: Path, plan: Sequence[Planned], produce: Callable[[str], "Iterable[torch.Tensor]"]
) -> None:
    """Write the planned tensors into one file, and read it again, as `write_weights` does."""
    _check_shard(path, plan, _write_shard(path, plan, produce, lambda nbytes: None))


def split(
    plan: Sequence[Planned], max_shard_size: int | str = MAX_SHARD_SIZE
) -> tuple[dict[str, list[Planned]], int]:
    """Shard file -> its tensors, and the bytes of all: the sizes and names of `save_pretrained`.

    Raises `ConfigError` where `max_shard_size` is no size.
    """
    from huggingface_hub import split_state_dict_into_shards_factory

    by_name: dict[str, Any] = {tensor.name: tensor for tensor in plan}
    size = str(max_shard_size).upper()
    if not re.fullmatch(r"(?=.*[1-9])\d+(\.\d+)? ?([KMGT]B)?", size):
        raise ConfigError(f"max_shard_size: {max_shard_size!r} is no size; write it as 5GB")
    found = split_state_dict_into_shards_factory(
        by_name,
        get_storage_size=lambda tensor: tensor.nbytes,
        filename_pattern=SINGLE.replace(".safetensors", "{suffix}.safetensors"),
        max_shard_size=int(size) if size.isdigit() else size,
    )
    shards = {
        # Wide numbers first: every tensor then starts at a multiple of its numbers' size.
        name: sorted((by_name[n] for n in names), key=lambda tensor: -BITS[tensor.dtype])
        for name, names in found.filename_to_tensors.items()
    }
    return shards, sum(tensor.nbytes for tensor in plan)


def _write_shard(
    path: Path,
    tensors: Sequence[Planned],
    produce: Callable[[str], "Iterable[torch.Tensor]"],
    advance: Callable[[int], None],
) -> dict[str, bytes]:
    """Write one safetensors file tensor by tensor; the checksum of each by name."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    digests = {}
    with path.open("wb", buffering=0) as file:
        _write(file, struct.pack("<Q", len(encoded)) + encoded)
        for tensor in tensors:
            if tensor.copy is not None:
                copy_range(tensor.copy, file)
                digests[tensor.name] = digest_range(tensor.copy)
            else:
                digests[tensor.name] = _write_blocks(file, tensor, produce(tensor.name))
            advance(tensor.nbytes)
        os.fsync(file.fileno())
    return digests


def _write_blocks(file: IO[bytes], tensor: Planned, blocks: "Iterable[torch.Tensor]") -> bytes:
    """Write one tensor block by block; its checksum."""
    import xxhash

    digest = xxhash.xxh3_128()
    written = 0
    for block in blocks:
        content = as_bytes(block)
        _write(file, content)
        digest.update(content)
        written += len(content)
    assert written == tensor.nbytes, tensor.name
    return digest.digest()


def _write(file: IO[bytes], content: bytes | memoryview) -> None:
    left = memoryview(content)
    while left:  # a system call takes 2 GiB at most
        left = left[file.write(left) :]


def _check_shard(path: Path, tensors: Sequence[Planned], digests: Mapping[str, bytes]) -> None:
    """Read a written shard again: names, dtypes, shapes and bytes as planned."""
    found = read_header(path)
    for tensor in tensors:
        info = found.pop(tensor.name, None)
        if info is None or (info.dtype, info.shape) != (tensor.dtype, tensor.shape):
            raise CheckpointError(f"{path}: {tensor.name} was not written as planned")
        if digest_range(info) != digests[tensor.name]:
            raise CheckpointError(
                f"{path}: {tensor.name} reads otherwise than it was written; check the disk"
            )
    assert not found


def as_bytes(tensor: "torch.Tensor") -> memoryview:
    """The tensor's elements as stored, row by row."""
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    elements: Any = flat.view(torch.uint8).numpy()
    return memoryview(elements)
