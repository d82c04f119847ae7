"""Projected image features: computed once for a run, where a model takes them."""

import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any

from vlmmerge.scoring.processors import PictureKey
from vlmmerge.scoring.store import Store, each

if TYPE_CHECKING:
    import torch

BATCH = 128  # pictures of one pass through the vision tower, at most

# Of a tower's outputs, what no language model reads.
_UNREAD = ("last_hidden_state", "hidden_states", "attentions")


class Features:
    """What a model's vision makes of pictures, each set of them once. Vision is never merged."""

    def __init__(self, model: Any, pixels: Callable[[PictureKey], Mapping[str, Any]]) -> None:
        self._model = model
        self._pixels = pixels
        self._encode = getattr(model.base_model, "get_image_features", None)
        self._kind: Any = None
        self._held = Store()
        self._computing = Lock()

    @property
    def offered(self) -> bool:
        """Whether the model has a way to take image features."""
        taken = inspect.signature(self._model.forward).parameters
        return self._encode is not None and "mm_encoder_outputs" in taken

    def outputs(self, keys: Sequence[PictureKey]) -> Mapping[str, Any]:
        """`mm_encoder_outputs` of rows' pictures, those of one row after those of another."""
        with self._computing:
            self._compute(dict.fromkeys(keys))
        device = self._model.device
        found = [each(self._held[key], lambda tensor: tensor.to(device)) for key in keys]
        joined = {name: _joined([entry[name] for entry in found]) for name in found[0]}
        return {"image": self._kind(**joined)}

    def _compute(self, keys: Mapping[PictureKey, None]) -> None:
        """Those that are not there yet, pictures of one shape together."""
        alike: dict[Hashable, list[PictureKey]] = {}
        for key in keys:
            if key not in self._held:
                alike.setdefault(shapes(self._pixels(key)), []).append(key)
        for same in alike.values():
            for start in range(0, len(same), BATCH):
                self._pass(same[start : start + BATCH])

    def _pass(self, keys: Sequence[PictureKey]) -> None:
        import torch

        assert self._encode is not None
        taken = inspect.signature(self._encode).parameters
        pixels = joined_pixels([self._pixels(key) for key in keys], self._model.device)
        with torch.inference_mode():
            made = self._encode(**{n: v for n, v in pixels.items() if n in taken}, return_dict=True)
        self._kind = type(made)
        read = {name: value for name, value in made.items() if name not in _UNREAD}
        for i, key in enumerate(keys):
            self._held.add(key, {n: _share(value, i, len(keys)) for n, value in read.items()})


def shapes(pixels: Mapping[str, Any]) -> Hashable:
    """What pictures must have in common to go through a tower together."""
    import torch

    return tuple(
        (name, value.shape) for name, value in pixels.items() if isinstance(value, torch.Tensor)
    )


def joined_pixels(
    pixels: Sequence[Mapping[str, Any]], device: "torch.device"
) -> dict[str, "torch.Tensor"]:
    """Pixel inputs of several rows, of equal shapes, as one."""
    import torch

    return {
        name: torch.cat([part[name] for part in pixels]).to(device)
        for name, value in pixels[0].items()
        if isinstance(value, torch.Tensor)
    }


def _share(value: Any, i: int, count: int) -> Any:
    """The i-th of `count` equal shares: of a tensor's rows, of a list, of each list in a list."""
    if isinstance(value, list | tuple) and value and isinstance(value[0], list | tuple):
        return [_share(part, i, count) for part in value]
    size = len(value) // count
    return value[i * size : (i + 1) * size]


def _joined(shares: Sequence[Any]) -> Any:
    """Shares put together again."""
    import torch

    if isinstance(shares[0], torch.Tensor):
        return torch.cat(list(shares))
    if shares[0] and isinstance(shares[0][0], list | tuple):
        return [_joined(parts) for parts in zip(*shares, strict=True)]
    return [part for share in shares for part in share]
