"""Models on disk: saved in either layout, read back by transformers or byte by byte."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

BF16, F32 = torch.bfloat16, torch.float32
Tensors = dict[str, torch.Tensor]
T = TypeVar("T")
SHARD = "24KB"  # a fraction of the smallest model


class Stored(NamedTuple):
    """A tensor on disk, by its bytes' digest."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    digest: str


@dataclass(frozen=True)
class Saved:
    """A model's folder, and the class that loads it."""

    kind: type[PreTrainedModel]
    path: Path
    dtype: torch.dtype

    def load(self) -> PreTrainedModel:
        """The model in float32; nothing missing and nothing unexpected."""
        model, info = self.kind.from_pretrained(
            self.path, dtype=torch.float32, output_loading_info=True
        )
        assert not any(info.values()), info
        return model.eval()

    def state(self) -> dict[str, torch.Tensor]:
        """The live tensors, float32."""
        return self.load().state_dict()

    @property
    def files(self) -> list[Path]:
        """Its shards."""
        return sorted(self.path.glob("*.safetensors"))

    def stored(self) -> dict[str, Stored]:
        """Every stored tensor by name."""
        found = {}
        for file in self.files:
            for name, tensor in load_file(file).items():
                raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
                digest = hashlib.sha256(raw).hexdigest()
                found[name] = Stored(tensor.dtype, tuple(tensor.shape), digest)
        return found


def rewrite(saved: Saved, change: Callable[[Tensors], Tensors]) -> Saved:
    """Put other tensors into the folder's files, in place."""
    for file in saved.files:
        tensors = load_file(file)
        save_file({**tensors, **change(tensors)}, file, {"format": "pt"})
    return saved


def rename(saved: Saved, old: str, new: str) -> Saved:
    """Give the folder's tensors that start with `old` names that start with `new`."""

    def renamed(mapping: Mapping[str, T]) -> dict[str, T]:
        return {
            new + name.removeprefix(old) if name.startswith(old) else name: value
            for name, value in mapping.items()
        }

    for file in saved.files:
        save_file(renamed(load_file(file)), file, {"format": "pt"})
    index = saved.path / "model.safetensors.index.json"
    if index.exists():
        parsed = json.loads(index.read_text())
        index.write_text(json.dumps({**parsed, "weight_map": renamed(parsed["weight_map"])}))
    return saved


def save(
    model: PreTrainedModel,
    path: Path,
    layout: str = "hub",
    sharded: bool = False,
    dtype: torch.dtype = F32,
) -> Saved:
    """Save with the hub's older names or the `live` ones; buffers stay float32, as on the hub.

    `transposed` is live with experts as the hub's Qwen3-VL-MoE has them, which transformers reads
    and does not write.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.data = parameter.data.to(dtype)
    size = {"max_shard_size": SHARD} if sharded else {}
    model.config.dtype = dtype
    model.save_pretrained(path, save_original_format=layout == "hub", **size)
    saved = Saved(type(model), path, dtype)
    assert (len(saved.files) > 1) == sharded
    if layout != "transposed":
        return saved
    return rewrite(
        saved, lambda t: {n: x.mT.contiguous() for n, x in t.items() if ".experts." in n}
    )
