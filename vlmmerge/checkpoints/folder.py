"""A model folder as it lies there: which files hold its weights, and that they are its own."""

import os
from pathlib import Path

from vlmmerge.checkpoints.headers import TensorInfo, read_header
from vlmmerge.checkpoints.strict_json import read_json, shown
from vlmmerge.errors import CheckpointError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"

# Files that are read or copied into an output.
_OURS = (".safetensors", ".json", ".txt", ".model", ".jinja")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_OTHERS = (".h5", ".msgpack", ".onnx", ".npz")


def check_folder(path: Path) -> None:
    """Refuse a folder without safetensors, and files that are links to another place.

    The hub's cache links a snapshot's files to the blobs of the repository, and these to blobs that
    repositories share: these are its own.
    Raises `CheckpointError`, also where a link leads nowhere.
    """
    if not os.path.lexists(path / INDEX) and not os.path.lexists(path / SINGLE):
        raise CheckpointError(_no_weights(path))
    _check_links(path)


def is_adapter(path: Path) -> bool:
    """Whether a folder holds a PEFT adapter, and no model beside it."""
    models = any(os.path.lexists(path / name) for name in (INDEX, SINGLE))
    return not models and os.path.lexists(path / ADAPTER_CONFIG)


def check_adapter(path: Path) -> None:
    """Refuse an adapter's folder without safetensors, and files that are links to another place."""
    if not os.path.lexists(path / ADAPTER):
        pickled = path / "adapter_model.bin"
        if os.path.lexists(pickled):
            raise CheckpointError(
                f"{pickled}: pickled adapters are not read; save it again with peft, as safetensors"
            )
        raise CheckpointError(f"{path}: {ADAPTER} is missing; fetch the weights too")
    _check_links(path)


def _check_links(path: Path) -> None:
    root = Path(os.path.realpath(path))
    own = [root]
    for above in root.parents:
        if above.name == "snapshots":
            # huggingface_hub 2 keeps what it had from Xet once for all repositories of a cache.
            own += [above.parent / "blobs", above.parent.parent / "blobs"]
    with os.scandir(path) as entries:
        links = sorted(e.name for e in entries if e.is_symlink() and e.name.endswith(_OURS))
    for name in links:
        target = Path(os.path.realpath(path / name))
        if not target.exists():
            raise CheckpointError(f"{path / name}: a link that leads nowhere; fetch the file again")
        if not any(target.is_relative_to(folder) for folder in own):
            raise CheckpointError(
                f"{path / name}: a link out of the model folder, to {target}; copy the file there"
            )


def read_headers(path: Path) -> dict[str, TensorInfo]:
    """Every tensor of a folder by name, of one file or of the shards that the index names.

    Raises `CheckpointError` where one is damaged, or where index and shards disagree.
    """
    if not os.path.lexists(path / INDEX):
        return read_header(path / SINGLE)
    weight_map = read_weight_map(path / INDEX)
    shards = sorted(set(weight_map.values()))
    if os.path.lexists(path / SINGLE) and SINGLE not in shards:
        raise CheckpointError(
            f"{path}: holds {SINGLE} and an index of other shards; remove the one that is stale"
        )
    tensors: dict[str, TensorInfo] = {}
    for shard in shards:
        if not os.path.exists(path / shard):  # Path.exists raises for a name that is too long
            raise CheckpointError(
                f"{path / INDEX}: names a shard {shown(shard)} that is not there; fetch it again"
            )
        found = read_header(path / shard)
        for name in found.keys() & tensors.keys():
            raise CheckpointError(
                f"{path}: {shown(name)} is in two shards, {tensors[name].shard.name} and {shard}"
            )
        tensors |= found
    for name, shard in weight_map.items():
        if name not in tensors:
            raise CheckpointError(f"{path}: {shown(name)} is in the index and in no shard")
        if tensors[name].shard.name != shard:
            raise CheckpointError(
                f"{path}: the index has {shown(name)} in {shard}, it is in "
                f"{tensors[name].shard.name}"
            )
    return tensors


def read_weight_map(index: Path) -> dict[str, str]:
    """Tensor name -> shard of an index. Raises `CheckpointError` where it is none."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: has no weight_map")
    for name, shard in weight_map.items():
        if not isinstance(shard, str):
            raise CheckpointError(f"{index}: the shard of {shown(name)} is no file name")
        # A separator would lead out of the folder, or into another one.
        if not shard.endswith(".safetensors") or Path(shard).name != shard or "\0" in shard:
            raise CheckpointError(
                f"{index}: names a shard {shown(shard)}, which is no safetensors file beside it"
            )
    return weight_map


def _no_weights(path: Path) -> str:
    """Why a folder without the usual weights cannot be read."""
    names = sorted(entry.name for entry in path.iterdir())

    def first(*suffixes: str) -> str | None:
        return next((name for name in names if name.endswith(suffixes)), None)

    if ADAPTER_CONFIG in names:
        return f"{path}: a PEFT adapter; it can be a donor, here name the model that it is for"
    if name := first(".safetensors"):
        return f"{path / name}: neither called {SINGLE} nor named by an index; fetch {INDEX} too"
    if name := first(".gguf"):
        return f"{path / name}: GGUF is not merged; use the safetensors model that it was made from"
    if name := first(*_PICKLED):
        return f"{path / name}: pickled weights are not read; convert the model to safetensors"
    if name := first(*_OTHERS):
        return f"{path / name}: not safetensors; convert the model with transformers first"
    if "config.json" not in names:
        return f"{path}: config.json and {SINGLE} are missing; is it a model folder?"
    return f"{path}: {SINGLE} is missing; fetch the weights too"
