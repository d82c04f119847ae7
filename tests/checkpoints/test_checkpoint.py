"""Checkpoints: headers first, tensors on demand, folders that are none refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from support import Family
from transformers import LlamaForCausalLM

from vlmmerge import Checkpoint
from vlmmerge.checkpoints import Source
from vlmmerge.errors import CheckpointError, ConfigError


def test_every_tensor_reads_as_safetensors_reads_it(family: Family) -> None:
    checkpoint = Checkpoint.open(family.vlm)
    with safe_open(family.vlm / "model.safetensors", "pt") as file:
        assert set(file.keys()) == set(checkpoint.tensors)
        for name in file.keys():  # noqa: SIM118
            assert torch.equal(checkpoint.read(name), file.get_tensor(name))


def test_shards_read_as_one(family: Family, tmp_path: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(family.base, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path, max_shard_size="8KB")
    whole, sharded = Checkpoint.open(family.base), Checkpoint.open(tmp_path)
    assert len(sharded.shards) > 2
    assert whole.tensors.keys() == sharded.tensors.keys()
    for name in whole.tensors:
        assert torch.equal(whole.read(name), sharded.read(name))


def test_fingerprint_tells_weights_apart(family: Family, tmp_path: Path) -> None:
    shutil.copytree(family.base, tmp_path / "copy")
    base = Checkpoint.open(family.base).fingerprint
    assert base == Checkpoint.open(tmp_path / "copy").fingerprint
    assert base != Checkpoint.open(family.donor).fingerprint


def test_the_hubs_cache_layout_is_followed(family: Family, tmp_path: Path) -> None:
    """Snapshots are folders of links into blobs."""
    repository = tmp_path / "models--org--name"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for file in family.base.iterdir():
        blob = repository / "blobs" / f"hash-{file.name}"
        shutil.copyfile(file, blob)
        (snapshot / file.name).symlink_to(Path("../../blobs") / blob.name)
    assert Checkpoint.open(snapshot).tensors.keys() == Checkpoint.open(family.base).tensors.keys()


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda d: (d / "config.json").unlink(), "config.json: missing"),
        (lambda d: (d / "config.json").write_text("{"), "cannot be read as JSON"),
        (lambda d: (d / "config.json").write_text("[]"), "no JSON object"),
        (lambda d: (d / "model.safetensors").unlink(), "pickled weights are not read"),
        (lambda d: (d / "model.safetensors").write_bytes(b""), "cut short"),
    ],
)
def test_a_broken_folder_is_one_line(
    family: Family, tmp_path: Path, break_it: object, message: str
) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(family.base, folder)
    break_it(folder)  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(folder)


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "missing.safetensors"}, "not there"),
        ({"a": "../model.safetensors"}, "not there"),
        ({"nowhere": "model-1.safetensors"}, "in no shard"),
    ],
)
def test_a_broken_index_is_one_line(
    family: Family, tmp_path: Path, weight_map: dict[str, str], message: str
) -> None:
    shutil.copyfile(family.base / "config.json", tmp_path / "config.json")
    shutil.copyfile(family.base / "model.safetensors", tmp_path / "model-1.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(tmp_path)


def test_an_adapter_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="PEFT adapter"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("org/name", Source("org/name")),
        ("org/name@v1", Source("org/name", "v1")),
        ({"path": "org/name", "revision": "v2"}, Source("org/name", "v2")),
        ({"path": "a/b", "base": "c/d@e"}, Source("a/b", None, Source("c/d", "e"))),
        (Path("x"), Source("x")),
    ],
)
def test_sources_round_trip(spec: object, expected: Source) -> None:
    assert Source.parse(spec, "here") == expected
    assert Source.parse(expected.to_config(), "here") == expected


@pytest.mark.parametrize("spec", [None, "", 3, {}, {"revision": "x"}, {"path": "a", "colour": 1}])
def test_what_is_no_source_is_refused(spec: object) -> None:
    with pytest.raises(ConfigError, match="here"):
        Source.parse(spec, "here")


@pytest.mark.parametrize("path", ["/no/such/folder", "no-such-folder", "org/absent@main"])
def test_a_missing_model_is_one_line(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(path)
    assert path.split("@")[0] in str(caught.value)
    assert "\n" not in str(caught.value)
