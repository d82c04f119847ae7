"""Ways to damage a model folder, and to store it in fp8; each takes the folder of a tiny model."""

import ctypes
import json
import resource
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save_file

Damage = Callable[[Path], object]
WEIGHTS = "model.safetensors"
ADAPTER = "adapter_config.json"
INDEX = "model.safetensors.index.json"


def read_shard(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    end = 8 + struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:end]), data[end:]


def load_weights(folder: Path) -> dict[str, torch.Tensor]:
    return load((folder / WEIGHTS).read_bytes())  # no mapping of a file that is written next


def shard_bytes(header: object, data: bytes = b"") -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


def both(*damages: Damage) -> Damage:
    """One damage after the other."""

    def damage(folder: Path) -> None:
        for one in damages:
            one(folder)

    return damage


def remove(*names: str) -> Damage:
    return both(*(lambda folder, name=name: (folder / name).unlink() for name in names))


def content(name: str, data: bytes | str) -> Damage:
    return lambda folder: (folder / name).write_bytes(
        data.encode() if isinstance(data, str) else data
    )


def change_bytes(change: Callable[[bytes], bytes], name: str = WEIGHTS) -> Damage:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def rename(old: str, new: str) -> Damage:
    return lambda folder: (folder / old).rename(folder / new)


def header(change: Callable[[dict[str, Any], list[str]], object]) -> Damage:
    """Change the header in place, given it and its tensors' names; the weights stay."""

    def damage(folder: Path) -> None:
        found, data = read_shard(folder / WEIGHTS)
        change(found, [name for name in found if name != "__metadata__"])
        (folder / WEIGHTS).write_bytes(shard_bytes(found, data))

    return damage


def header_text(old: str, new: str) -> Damage:
    """Replace text of the header, once, where JSON objects cannot say it."""

    def damage(folder: Path) -> None:
        found, data = read_shard(folder / WEIGHTS)
        before = json.dumps(found)
        assert old in before
        after = before.replace(old, new, 1).encode("utf-8", "surrogateescape")
        (folder / WEIGHTS).write_bytes(shard_bytes(after, data))

    return damage


def config(file: str = "config.json", **changes: object) -> Damage:
    """Set keys of a JSON file; `...` takes one out."""

    def damage(folder: Path) -> None:
        found = {**json.loads((folder / file).read_text()), **changes}
        kept = {key: value for key, value in found.items() if value is not ...}
        (folder / file).write_text(json.dumps(kept))

    return damage


def quantised(method: str | None, **settings: object) -> Damage:
    named = settings if method is None else {"quant_method": method, **settings}
    return config(quantization_config=named)


def tensors(change: Callable[[dict[str, torch.Tensor], str], object]) -> Damage:
    """Change the tensors, given them and the name of a projection in the first layer."""

    def damage(folder: Path) -> None:
        found = load_weights(folder)
        name = next(n for n in found if n.endswith("layers.0.mlp.up_proj.weight"))
        change(found, name)
        save_file({n: t.contiguous() for n, t in found.items()}, folder / WEIGHTS, {"format": "pt"})

    return damage


def element(value: float) -> Damage:
    """One number of one weight."""
    return tensors(lambda found, name: found[name].view(-1)[3:4].fill_(value))


def sharded(folder: Path, shards: int = 3) -> None:
    """The same model in shards with an index."""
    found = load_weights(folder)
    (folder / WEIGHTS).unlink()
    weight_map = {}
    for i in range(shards):
        name = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = {n: found[n] for n in sorted(found)[i::shards]}
        save_file(part, folder / name, {"format": "pt"})
        weight_map |= dict.fromkeys(part, name)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def index(change: Callable[[dict[str, Any], list[str]], object]) -> Damage:
    """In shards, and the index's weight_map changed in place, given it and the shards' names."""

    def damage(folder: Path) -> None:
        sharded(folder)
        found = json.loads((folder / INDEX).read_text())
        change(found["weight_map"], sorted(set(found["weight_map"].values())))
        (folder / INDEX).write_text(json.dumps(found))

    return damage


def link_out(name: str) -> Damage:
    """A file of the folder as a link to the same file elsewhere."""

    def damage(folder: Path) -> None:
        elsewhere = folder.parent.parent / "elsewhere"
        elsewhere.mkdir()
        (folder / name).rename(elsewhere / name)
        (folder / name).symlink_to(elsewhere / name)

    return damage


def to_fp8(folder: Path, block: Sequence[int] | None, keep: Sequence[str] = ()) -> None:
    """Store projections as transformers stores fp8: blocks of float8_e4m3fn and their scales."""
    stored: dict[str, torch.Tensor] = {}
    for name, tensor in load_weights(folder).items():
        if tensor.dim() != 2 or "_proj" not in name or name in keep:
            stored[name] = tensor
            continue
        rows, columns = tensor.shape
        height, width = block or (rows, columns)
        down, across = -(-rows // height), -(-columns // width)
        padded = torch.zeros(down * height, across * width)
        padded[:rows, :columns] = tensor.float()
        blocks = padded.reshape(down, height, across, width)
        scale = blocks.abs().amax((1, 3)).clamp(min=1e-12) / 448
        small = (blocks / scale[:, None, :, None]).reshape(padded.shape)[:rows, :columns]
        stored[name] = small.to(torch.float8_e4m3fn).contiguous()
        stored[f"{name}_scale_inv"] = scale if block else scale.reshape(())
    save_file(stored, folder / WEIGHTS, {"format": "pt"})
    size = None if block is None else list(block)
    quantised("fp8", weight_block_size=size, activation_scheme="dynamic", fmt="e4m3")(folder)


def fp8(block: Sequence[int] | None = (8, 8)) -> Damage:
    return lambda folder: to_fp8(folder, block)


@contextmanager
def small_disk(folder: Path, size: int = 48 * 2**10) -> Iterator[Path]:
    """A file system of `size` bytes; where mounting is not allowed, files of at most that size."""
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    mounted = libc.mount(b"tmpfs", bytes(folder), b"tmpfs", 0, f"size={size}".encode()) == 0
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        if not mounted:  # Python ignores the signal that would end it, and gets an error instead
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        yield folder
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        if mounted:
            libc.umount(bytes(folder))
