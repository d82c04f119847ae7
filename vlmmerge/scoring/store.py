"""Store: tensors kept for a whole run, in memory up to a limit and then mapped from disk."""

import tempfile
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from vlmmerge.errors import EngineError

if TYPE_CHECKING:
    import torch

MEMORY = 1 << 30  # bytes of a store that are held in memory


class Store:
    """Nested lists, tuples and mappings of tensors by key. Safe to use from several threads.

    What does not fit in `memory` bytes lies in a file of the system's temporary folder, mapped when
    it is used, and gone with the store.
    """

    def __init__(self, memory: int = MEMORY) -> None:
        self._memory = memory
        self._entries: dict[object, Any] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._adding = Lock()
        self.on_disk = 0  # bytes

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __getitem__(self, key: object) -> Any:
        return self._entries[key]

    def add(self, key: object, value: Any) -> None:
        """Keep `value`. Raises `EngineError` where the disk has no room for it."""
        with self._adding:
            self._entries[key] = each(value, self._kept)

    def _kept(self, tensor: "torch.Tensor") -> "torch.Tensor":
        size = tensor.numel() * tensor.element_size()
        if size <= self._memory:
            self._memory -= size
            # A view would keep all that it is a view of.
            return tensor.clone() if tensor.untyped_storage().nbytes() > size else tensor
        return self._mapped(tensor, size)

    def _mapped(self, tensor: "torch.Tensor", size: int) -> "torch.Tensor":
        import torch

        if size == 0:
            return tensor
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="vlmmerge-")
        file = Path(self._folder.name) / str(self.on_disk)
        raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        try:
            file.write_bytes(raw.numpy().data)
        except OSError as error:
            raise EngineError(
                f"{self._folder.name}: pictures cannot be kept there ({error.strerror}); free some"
                " space, or set TMPDIR to another disk"
            ) from error
        self.on_disk += size
        count = prod(tensor.shape)
        # Private: what is mapped is never written back.
        mapped = torch.from_file(str(file), shared=False, size=count, dtype=tensor.dtype)
        return mapped.view(tensor.shape)


def each(value: Any, act: "Callable[[torch.Tensor], torch.Tensor]") -> Any:
    """`value` with every tensor in it replaced."""
    import torch

    if isinstance(value, torch.Tensor):
        return act(value)
    if isinstance(value, Mapping):
        return {name: each(part, act) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [each(part, act) for part in value]
    return value
