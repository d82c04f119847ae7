"""A model as it lies on disk: config and headers first, tensors on demand."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from vlmmerge.checkpoints.folder import INDEX, SINGLE, check_folder, read_headers
from vlmmerge.checkpoints.headers import TensorInfo
from vlmmerge.checkpoints.hub import Snapshot, find
from vlmmerge.checkpoints.quantised import dequantise, readable, refuse_quantised
from vlmmerge.checkpoints.source import Source
from vlmmerge.checkpoints.strict_json import read_json
from vlmmerge.errors import CheckpointError

if TYPE_CHECKING:
    import torch

    from vlmmerge.checkpoints.adapter import Adapter

__all__ = ["INDEX", "SINGLE", "Checkpoint", "read_json", "torch_dtype"]

_SAMPLE = 64  # bytes of each tensor that go into a fingerprint


@dataclass(frozen=True)
class Checkpoint:
    """A model folder whose tensors are known by name, shape and dtype from their headers alone.

    `config` and `tensors` are those of the dequantised model where weights are stored in fp8: the
    config.json of what is written from it must then be written from `config`, not copied.

    With an `adapter` it is a donor: the model that the adapter stands on, whose tensors these are;
    what they become is said by live names, in `Layout.deltas`.
    """

    path: Path
    source: Source
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    remote: Snapshot | None = None  # where the weights are to be had, as long as they are not here
    adapter: "Adapter | None" = None

    @classmethod
    def open(cls, spec: object, where: str = "model") -> "Checkpoint":
        """Open a folder, `org/name[@revision]` or `{path, revision}`, reading headers only.

        Of a repository of the hub that is not in its cache no weights are downloaded: `fetched`
        does it. Raises `CheckpointError` where the model is missing, damaged or has no safetensors.
        """
        source = Source.parse(spec, where)
        return cls.open_at(source, *place_of(source))

    @classmethod
    def open_at(cls, source: Source, path: Path, snapshot: Snapshot | None) -> "Checkpoint":
        """Open what `place_of` has found."""
        if snapshot is not None and snapshot.files:
            return cls._from_afar(source, snapshot)
        return cls._from_folder(path, source)

    @classmethod
    def _from_folder(cls, path: Path, source: Source) -> "Checkpoint":
        check_folder(path)
        config = read_json(path / "config.json")
        refuse_quantised(path, config)  # before headers, whose dtypes say less
        config, tensors = readable(path, config, read_headers(path))
        return cls(path, source, MappingProxyType(config), MappingProxyType(tensors))

    @classmethod
    def _from_afar(cls, source: Source, snapshot: Snapshot) -> "Checkpoint":
        with tempfile.TemporaryDirectory() as outline:
            snapshot.outline(Path(outline))
            try:
                seen = cls._from_folder(Path(outline), source)
            except CheckpointError as error:
                said = str(error).replace(outline, source.path)
                raise CheckpointError(said) from error
        snapshot.fetch_companions()
        tensors = {
            name: replace(info, shard=snapshot.folder / info.shard.name)
            for name, info in seen.tensors.items()
        }
        return replace(
            seen, path=snapshot.folder, tensors=MappingProxyType(tensors), remote=snapshot
        )

    @property
    def missing_bytes(self) -> int:
        """What `fetched` would download: 0 where the weights are on disk."""
        own = 0 if self.adapter is None else self.adapter.missing_bytes
        return own if self.remote is None else own + self.remote.missing_bytes

    def fetched(self) -> "Checkpoint":
        """The model with its weights on disk: itself, or downloaded from the hub.

        Raises `CheckpointError` where the weights are not those that the headers spoke of.
        """
        if self.adapter is not None:
            model = replace(self, adapter=None).fetched()
            return replace(model, adapter=self.adapter.fetched())
        if self.remote is None:
            return self
        self.remote.fetch_weights()
        here = self._from_folder(self.path, self.source)
        if _layout(here) != _layout(self):
            raise CheckpointError(f"{self.path}: other headers than the hub gave before; run again")
        return here

    @property
    def name(self) -> str:
        """What to call the model in a table: the folder's or the repository's name."""
        source = self.source if self.adapter is None else self.adapter.source
        return source.path.rstrip("/").rpartition("/")[2]

    @property
    def dequantised(self) -> bool:
        """Whether any weight is stored in fp8 and dequantised on reading."""
        return any(info.scaled is not None for info in self.tensors.values())

    @property
    def notes(self) -> list[str]:
        """What a user should know of how the model is read, a line each."""
        notes = [] if self.adapter is None else list(self.adapter.notes)
        if self.dequantised:
            count = sum(info.scaled is not None for info in self.tensors.values())
            notes.append(f"{self.name}: {count} fp8 weights are dequantised on reading")
        if "auto_map" in self.config:
            notes.append(f"{self.name}: its config names remote code (auto_map), which is not run")
        return notes

    @property
    def shards(self) -> list[Path]:
        return list(dict.fromkeys(tensor.shard for tensor in self.tensors.values()))

    def read(self, name: str) -> "torch.Tensor":
        """One tensor, copied into memory in the dtype that `tensors` says."""
        info = self.tensors[name]
        if info.scaled is None:
            return read_stored(info)
        weight, scale = (read_stored(part) for part in info.stored)
        return dequantise(weight, scale, info.scaled.block, torch_dtype(info.dtype))

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the config, the headers and a sample of every tensor's bytes."""
        digest = hashlib.sha256(json.dumps(dict(self.config), sort_keys=True).encode())
        sample(digest, [part for info in self.tensors.values() for part in info.stored])
        if self.adapter is not None:
            digest.update(self.adapter.fingerprint.encode())
        return digest.hexdigest()[:16]


def place_of(source: Source) -> tuple[Path, Snapshot | None]:
    """Where a source lies, and its snapshot if it is of the hub."""
    path = source.folder()
    if path is not None:
        return path, None
    snapshot = find(source.path, source.revision)
    return snapshot.folder, snapshot


def sample(digest: "hashlib._Hash", stored: Sequence[TensorInfo]) -> None:
    """Put names, dtypes, shapes and a sample of the bytes of stored tensors into a hash."""
    for shard in dict.fromkeys(part.shard for part in stored):
        with shard.open("rb") as file:
            for info in stored:
                if info.shard != shard:
                    continue
                digest.update(f"{info.name} {info.dtype} {info.shape}".encode())
                middle = info.start + max(0, info.nbytes - _SAMPLE) // 2
                file.seek(middle)
                digest.update(file.read(min(_SAMPLE, info.nbytes)))


def read_stored(info: TensorInfo) -> "torch.Tensor":
    """What a byte range holds, copied into memory."""
    import torch

    # pread, not a mapping: pages that were mapped stay in the resident set.
    buffer = bytearray(info.nbytes)
    left = memoryview(buffer)
    with info.shard.open("rb", buffering=0) as file:
        while left:  # a system call gives 2 GiB at most
            read = os.preadv(file.fileno(), [left], info.start + info.nbytes - len(left))
            if read == 0:
                raise CheckpointError(f"{info.shard}: cut short while {info.name} was read")
            left = left[read:]
    if not buffer:
        return torch.empty(info.shape, dtype=torch_dtype(info.dtype))
    return torch.frombuffer(buffer, dtype=torch_dtype(info.dtype)).reshape(info.shape)


def _layout(checkpoint: Checkpoint) -> dict[str, tuple[object, ...]]:
    return {
        name: (info.dtype, info.shape, info.shard, info.start, info.end)
        for name, info in checkpoint.tensors.items()
    }


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
