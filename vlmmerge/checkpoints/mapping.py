"""Tensors as they lie on disk, mapped: read in place, and let go when they are done with."""

import mmap
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from vlmmerge.checkpoints.headers import TensorInfo
from vlmmerge.errors import CheckpointError

if TYPE_CHECKING:
    import torch


class Mappings:
    """Shards, each mapped when a tensor of it is first asked for. Nothing is written to them."""

    def __init__(self) -> None:
        self._shards: dict[Path, mmap.mmap] = {}
        self._lock = threading.Lock()

    def tensor(self, info: TensorInfo) -> "torch.Tensor | None":
        """The tensor in place, flat; None where it does not lie as torch could read it."""
        import torch

        from vlmmerge.checkpoints.checkpoint import torch_dtype

        dtype = torch_dtype(info.dtype)
        if info.scaled is not None or info.start % dtype.itemsize:
            return None
        if not info.elements:
            return torch.empty(0, dtype=dtype)
        mapped = self._map(info.shard)
        if len(mapped) < info.end:
            raise CheckpointError(f"{info.shard}: cut short while {info.name} was read")
        return torch.frombuffer(mapped, dtype=dtype, count=info.elements, offset=info.start)

    def release(self, info: TensorInfo) -> None:
        """Let the pages of a tensor go: they leave the resident set, not the system's cache."""
        mapped = self._shards.get(info.shard)
        if mapped is None:
            return
        first = -(-info.start // mmap.PAGESIZE) * mmap.PAGESIZE
        last = info.end // mmap.PAGESIZE * mmap.PAGESIZE
        if last > first:
            mapped.madvise(mmap.MADV_DONTNEED, first, last - first)

    def _map(self, shard: Path) -> mmap.mmap:
        with self._lock:
            if shard not in self._shards:
                with shard.open("rb") as file:
                    # Private and writable, as torch wants it; a page never written to is shared.
                    self._shards[shard] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            return self._shards[shard]
