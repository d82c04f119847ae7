"""Writing: what transformers can read, whole or not at all."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import load_file
from support import Family
from transformers import LlamaForCausalLM

from vlmmerge import Checkpoint
from vlmmerge.checkpoints.checkpoint import INDEX
from vlmmerge.checkpoints.writer import Planned, write_weights
from vlmmerge.errors import CheckpointError, ConfigError


def plan_of(checkpoint: Checkpoint, made: str) -> list[Planned]:
    """Copy every tensor but those with `made` in their names, which become float32."""
    return [
        Planned(n, "F32", info.shape) if made in n else Planned(n, info.dtype, info.shape, info)
        for n, info in checkpoint.tensors.items()
    ]


def check(folder: Path, checkpoint: Checkpoint, made: str) -> None:
    loaded = {}
    for file in folder.glob("*.safetensors"):
        loaded |= load_file(file)
    assert loaded.keys() == checkpoint.tensors.keys()
    for name, tensor in loaded.items():
        expected = checkpoint.read(name)
        expected = expected.float() * 2 if made in name else expected
        assert tensor.dtype == expected.dtype
        assert torch.equal(tensor, expected)


@pytest.mark.parametrize("size", ["50GB", "8KB"])
def test_weights_read_back_in_the_shards_of_save_pretrained(
    family: Family, tmp_path: Path, size: str
) -> None:
    checkpoint = Checkpoint.open(family.base)
    heard: list[tuple[int, int]] = []
    write_weights(
        tmp_path,
        plan_of(checkpoint, "mlp"),
        lambda name: checkpoint.read(name).float() * 2,
        size,
        lambda done, total: heard.append((done, total)),
    )
    check(tmp_path, checkpoint, "mlp")
    files = sorted(file.name for file in tmp_path.iterdir())
    if size == "50GB":
        assert files == ["model.safetensors"]
        return
    model = LlamaForCausalLM.from_pretrained(family.base)
    state = {n: t.float() if "mlp" in n else t.bfloat16() for n, t in model.state_dict().items()}
    theirs = split_torch_state_dict_into_shards(
        {name: state[name] for name in checkpoint.tensors},
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=size,
    )
    assert files == [*sorted(theirs.filename_to_tensors), INDEX]
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["weight_map"] == theirs.tensor_to_filename
    assert index["metadata"]["total_size"] == heard[-1][0] == theirs.metadata["total_size"]
    Checkpoint.open(write_config(tmp_path))  # whole, by its own reader


def write_config(folder: Path) -> Path:
    (folder / "config.json").write_text("{}")
    return folder


def test_without_the_kernels_copy_the_bytes_are_the_same(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> int:
        raise OSError(errno.EXDEV, "other file system")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    checkpoint = Checkpoint.open(family.base)
    write_weights(tmp_path, plan_of(checkpoint, "none"), checkpoint.read)
    check(tmp_path, checkpoint, "none")
    source = next(iter(checkpoint.tensors.values())).shard
    assert (tmp_path / "model.safetensors").stat().st_ino != source.stat().st_ino


def test_a_byte_that_reads_otherwise_than_written_is_an_error(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that flips a bit: the write is undone by the check, not found by the user."""
    checkpoint = Checkpoint.open(family.base)

    def flip(descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        os.pwrite(descriptor, b"\xff\x7f", size - 100)

    monkeypatch.setattr(os, "fsync", flip)
    with pytest.raises(CheckpointError, match="reads otherwise than it was written"):
        write_weights(tmp_path, plan_of(checkpoint, "none"), checkpoint.read)


def test_a_size_that_is_none_is_refused(family: Family, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(family.base)
    with pytest.raises(ConfigError, match="max_shard_size: 'big' is no size"):
        write_weights(tmp_path, plan_of(checkpoint, "mlp"), checkpoint.read, "big")
