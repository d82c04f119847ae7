"""Safetensors headers: what is in a shard, without reading its tensors."""

import math
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

from vlmmerge.checkpoints.strict_json import parse_json, shown
from vlmmerge.errors import CheckpointError

MAX_HEADER = 100 * 2**20  # bytes, the format's own limit

# Bits per element; what is missing here is refused by name.
BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "I64": 64,
    "U64": 64,
    "F64": 64,
}
FLOATS = ("BF16", "F16", "F32", "F64")

_MOST_DIMENSIONS = 64  # torch's own limit
_LFS_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class Scaled:
    """How a tensor lies on disk that is dequantised on reading.

    `dtype` is the stored one, `scale` multiplies blocks of `block` = (rows, columns) elements.
    """

    dtype: str
    scale: "TensorInfo"
    block: tuple[int, int]


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies: `shard` and the byte range `start` to `end` counted in the file.

    `dtype` and `shape` are those that `Checkpoint.read` returns. Only where `scaled` is None are
    they also what the byte range holds.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    shard: Path
    start: int
    end: int
    scaled: Scaled | None = None

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor as it is read."""
        return self.elements * BITS[self.dtype] // 8

    @property
    def stored(self) -> "list[TensorInfo]":
        """What there is of it on disk: itself, or the quantised weight and its scales."""
        if self.scaled is None:
            return [self]
        weight = TensorInfo(
            self.name, self.scaled.dtype, self.shape, self.shard, self.start, self.end
        )
        return [weight, self.scaled.scale]


def read_header(shard: Path) -> dict[str, TensorInfo]:
    """The tensors of one safetensors file by name, in file order.

    Raises `CheckpointError` where the file is not what the format says: a header cut short or not
    JSON, byte ranges that overlap, leave holes, miss the shape or run past the end of the file.
    """
    try:
        found = os.stat(shard)
        if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for ever
            raise CheckpointError(f"{shard}: is no file")
        with shard.open("rb") as file:
            head = file.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
            if not 0 < length <= min(MAX_HEADER, found.st_size - 8):
                if (head + file.read(len(_LFS_POINTER))).startswith(_LFS_POINTER):
                    raise CheckpointError(f"{shard}: a Git LFS pointer; run `git lfs pull`")
                raise CheckpointError(
                    f"{shard}: not a safetensors file, or cut short; fetch it again"
                )
            encoded = file.read(length)
    except OSError as error:
        raise CheckpointError(
            f"{shard}: its header cannot be read ({error.strerror or error})"
        ) from error
    return parse_header(encoded, shard, found.st_size)


def parse_header(encoded: bytes, shard: Path, size: int) -> dict[str, TensorInfo]:
    """The tensors that the header `encoded` of `shard`, a file of `size` bytes, describes."""
    header = parse_json(encoded, f"{shard}: its header")
    if not isinstance(header, dict):
        raise CheckpointError(f"{shard}: its header is no JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or any(type(value) is not str for value in metadata.values()):
        raise CheckpointError(f"{shard}: the header's __metadata__ maps not only text to text")
    offset = 8 + len(encoded)
    tensors = [_tensor(shard, name, entry, offset) for name, entry in header.items()]
    tensors.sort(key=lambda tensor: (tensor.start, tensor.end))
    for tensor in tensors:
        if tensor.start != offset:
            raise CheckpointError(
                f"{shard}: bytes of {shown(tensor.name)} overlap others or leave a hole"
            )
        offset = tensor.end
    if offset != size:
        raise CheckpointError(
            f"{shard}: holds {size} bytes where its header says {offset}; fetch it again"
        )
    return {tensor.name: tensor for tensor in tensors}


def _tensor(shard: Path, name: str, entry: object, offset: int) -> TensorInfo:
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [start, end]}:
            pass
        case _:
            raise CheckpointError(f"{shard}: the header's entry for {shown(name)} is malformed")
    if len(shape) > _MOST_DIMENSIONS or not all(_counts(n) for n in shape):
        raise CheckpointError(f"{shard}: the shape of {shown(name)} is {shown(str(shape))}")
    if dtype not in BITS:
        raise CheckpointError(
            f"{shard}: {shown(name)} is of dtype {shown(dtype)}, which cannot be merged"
        )
    if not (_counts(start) and _counts(end)) or (
        (end - start) * 8 != math.prod(shape) * BITS[dtype]
    ):
        raise CheckpointError(
            f"{shard}: the byte range of {shown(name)} does not fit its shape {shown(str(shape))}"
        )
    return TensorInfo(name, dtype, tuple(shape), shard, offset + start, offset + end)


def _counts(number: object) -> bool:
    """Whether it is a size or a place in a file; true and 4.0 are none."""
    return type(number) is int and 0 <= number < 2**63
