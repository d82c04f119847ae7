"""Safetensors headers: what is in a shard, without reading its tensors."""

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies: `shard` and the byte range `start` to `end` counted in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    shard: Path
    start: int
    end: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.end - self.start


def read_header(shard: Path) -> dict[str, TensorInfo]:
    """The tensors of one safetensors file by name, in file order.

    Raises `CheckpointError` where the file is not what the format says: a header cut short or not
    JSON, byte ranges that overlap, leave holes, miss the shape or run past the end of the file.
    """
    try:
        size = shard.stat().st_size
        with shard.open("rb") as file:
            head = file.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else -1
            if not 0 < length <= min(MAX_HEADER, size - 8):
                raise CheckpointError(
                    f"{shard}: not a safetensors file, or cut short; fetch it again"
                )
            header = json.loads(file.read(length))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{shard}: its header cannot be read ({error})") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{shard}: its header is no JSON object")
    header.pop("__metadata__", None)
    offset = 8 + length
    tensors = [_tensor(shard, name, entry, offset) for name, entry in header.items()]
    tensors.sort(key=lambda tensor: (tensor.start, tensor.end))
    for tensor in tensors:
        if tensor.start != offset:
            raise CheckpointError(f"{shard}: bytes of {tensor.name} overlap others or leave a hole")
        offset = tensor.end
    if offset != size:
        raise CheckpointError(
            f"{shard}: holds {size} bytes where its header says {offset}; fetch it again"
        )
    return {tensor.name: tensor for tensor in tensors}


def _tensor(shard: Path, name: str, entry: object, offset: int) -> TensorInfo:
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(start), int(end)]}:
            pass
        case _:
            raise CheckpointError(f"{shard}: the header's entry for {name} is malformed")
    if any(type(n) is not int or n < 0 for n in shape):
        raise CheckpointError(f"{shard}: the shape of {name} is {shape}")
    if dtype not in BITS:
        raise CheckpointError(f"{shard}: {name} is of dtype {dtype}, which cannot be merged")
    if not 0 <= start <= end or (end - start) * 8 != math.prod(shape) * BITS[dtype]:
        raise CheckpointError(f"{shard}: the byte range of {name} does not fit its shape {shape}")
    return TensorInfo(name, dtype, tuple(shape), shard, offset + start, offset + end)
