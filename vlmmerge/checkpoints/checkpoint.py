"""A model as it lies on disk: config and headers first, tensors on demand."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from vlmmerge.checkpoints.headers import TensorInfo, read_header
from vlmmerge.checkpoints.source import Source
from vlmmerge.errors import CheckpointError

if TYPE_CHECKING:
    import torch

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

_SAMPLE = 64  # bytes of each tensor that go into a fingerprint


@dataclass(frozen=True)
class Checkpoint:
    """A model folder whose tensors are known by name, shape and dtype from their headers alone."""

    path: Path
    source: Source
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]

    @classmethod
    def open(cls, spec: object, where: str = "model") -> "Checkpoint":
        """Open a folder, `org/name[@revision]` or `{path, revision}`, reading headers only.

        Raises `CheckpointError` where the folder is missing, damaged or holds no safetensors.
        """
        source = Source.parse(spec, where)
        path = source.fetch()
        config = read_json(path / "config.json")
        return cls(path, source, MappingProxyType(config), MappingProxyType(_read_headers(path)))

    @property
    def name(self) -> str:
        """What to call the model in a table: the folder's or the repository's name."""
        return self.source.path.rstrip("/").rpartition("/")[2]

    @property
    def shards(self) -> list[Path]:
        return list(dict.fromkeys(tensor.shard for tensor in self.tensors.values()))

    def read(self, name: str) -> "torch.Tensor":
        """One tensor, copied into memory in its stored dtype."""
        import torch

        info = self.tensors[name]
        # pread, not a mapping: pages that were mapped stay in the resident set.
        buffer = bytearray(info.nbytes)
        left = memoryview(buffer)
        with info.shard.open("rb", buffering=0) as file:
            while left:  # a system call gives 2 GiB at most
                read = os.preadv(file.fileno(), [left], info.start + info.nbytes - len(left))
                if read == 0:
                    raise CheckpointError(f"{info.shard}: cut short while {name} was read")
                left = left[read:]
        if not buffer:
            return torch.empty(info.shape, dtype=torch_dtype(info.dtype))
        return torch.frombuffer(buffer, dtype=torch_dtype(info.dtype)).reshape(info.shape)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the config, the headers and a sample of every tensor's bytes."""
        digest = hashlib.sha256(json.dumps(dict(self.config), sort_keys=True).encode())
        for shard in self.shards:
            with shard.open("rb") as file:
                for info in self.tensors.values():
                    if info.shard != shard:
                        continue
                    digest.update(f"{info.name} {info.dtype} {info.shape}".encode())
                    middle = info.start + max(0, info.nbytes - _SAMPLE) // 2
                    file.seek(middle)
                    digest.update(file.read(min(_SAMPLE, info.nbytes)))
        return digest.hexdigest()[:16]


def torch_dtype(name: str) -> "torch.dtype":
    """The torch dtype of a safetensors dtype name."""
    import torch

    return {
        "BOOL": torch.bool,
        "U8": torch.uint8,
        "I8": torch.int8,
        "F8_E4M3": torch.float8_e4m3fn,
        "F8_E5M2": torch.float8_e5m2,
        "I16": torch.int16,
        "U16": torch.uint16,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "I32": torch.int32,
        "U32": torch.uint32,
        "F32": torch.float32,
        "I64": torch.int64,
        "U64": torch.uint64,
        "F64": torch.float64,
    }[name]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a model folder."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: missing; is {path.parent} a model folder?") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds no JSON object")
    return content


def _read_headers(path: Path) -> dict[str, TensorInfo]:
    if not (path / INDEX).exists():
        if (path / SINGLE).exists():
            return read_header(path / SINGLE)
        if (path / "adapter_config.json").exists():
            raise CheckpointError(f"{path}: a PEFT adapter; merge it into its model first")
        raise CheckpointError(f"{path}: no {SINGLE}; pickled weights are not read")
    weight_map = read_json(path / INDEX).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{path / INDEX}: has no weight_map")
    tensors: dict[str, TensorInfo] = {}
    for shard in sorted(set(weight_map.values())):
        if Path(shard).name != shard or not (path / shard).exists():
            raise CheckpointError(f"{path / INDEX}: names a shard {shard!r} that is not there")
        found = read_header(path / shard)
        for name in found.keys() & tensors.keys():
            raise CheckpointError(f"{path}: {name} is in two shards")
        tensors |= found
    if missing := sorted(weight_map.keys() - tensors.keys()):
        raise CheckpointError(f"{path}: {missing[0]} is in the index and in no shard")
    return tensors
