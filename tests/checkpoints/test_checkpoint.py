"""Checkpoints: headers first, tensors on demand, folders that are none refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from damage import config, sharded
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


def test_a_folder_of_a_snapshot_is_followed_too(family: Family, tmp_path: Path) -> None:
    """Repositories keep several models in folders; the cache may be reached by a link itself."""
    inner = tmp_path / "models--org--name" / "snapshots" / "abc" / "small"
    inner.mkdir(parents=True)
    (tmp_path / "models--org--name" / "blobs").mkdir()
    for file in family.base.iterdir():
        blob = tmp_path / "models--org--name" / "blobs" / f"hash-{file.name}"
        shutil.copyfile(file, blob)
        (inner / file.name).symlink_to(Path("../../../blobs") / blob.name)
    (tmp_path / "link").symlink_to(inner)
    found = Checkpoint.open(tmp_path / "link")
    assert found.tensors.keys() == Checkpoint.open(family.base).tensors.keys()


def test_a_link_within_the_folder_is_followed(family: Family, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(family.base, tmp_path / "model"))
    (folder / "model.safetensors").rename(folder / "weights")
    (folder / "model.safetensors").symlink_to("weights")
    assert Checkpoint.open(folder).tensors


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("target", ["models--org--other/blobs", "models--org--name/refs", "."])
def test_a_snapshots_link_elsewhere_is_refused(
    family: Family, tmp_path: Path, name: str, target: str
) -> None:
    snapshot = tmp_path / "models--org--name" / "snapshots" / "abc"
    shutil.copytree(family.base, snapshot)
    (tmp_path / target).mkdir(parents=True, exist_ok=True)
    (snapshot / name).rename(tmp_path / target / "blob")
    (snapshot / name).symlink_to(tmp_path / target / "blob")
    with pytest.raises(CheckpointError, match="a link out of the model folder"):
        Checkpoint.open(snapshot)


def test_links_that_are_none_of_a_models_files_are_left_alone(
    family: Family, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(family.base, tmp_path / "model"))
    (tmp_path / "README.md").write_text("mine")
    (folder / "README.md").symlink_to(tmp_path / "README.md")
    assert Checkpoint.open(folder).tensors


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda d: (d / "config.json").unlink(), "config.json: missing"),
        (lambda d: (d / "config.json").write_text("{"), "cannot be read as JSON"),
        (lambda d: (d / "config.json").write_text("[]"), "no JSON object"),
        (lambda d: (d / "model.safetensors").unlink(), "is missing; fetch the weights"),
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
        ({"a": "../model.safetensors"}, "no safetensors file beside it"),
        ({"a": "/model.safetensors"}, "no safetensors file beside it"),
        ({"a": "sub/model.safetensors"}, "no safetensors file beside it"),
        ({"a": "config.json"}, "no safetensors file beside it"),
        ({"a": f"{'x' * 300}.safetensors"}, "not there"),
        ({"a": "\ud800.safetensors"}, "surrogates not allowed"),
        ({"a": "\0.safetensors"}, "no safetensors file beside it"),
        ({"a": None}, "no file name"),
        ({}, "no weight_map"),
        ([], "no weight_map"),
        ({"nowhere": "model-1.safetensors"}, "in no shard"),
    ],
)
def test_a_broken_index_is_one_line(
    family: Family, tmp_path: Path, weight_map: object, message: str
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


def test_tensors_the_index_has_elsewhere_are_refused(family: Family, tmp_path: Path) -> None:
    shutil.copytree(family.base, tmp_path, dirs_exist_ok=True)
    sharded(tmp_path, 2)
    index = tmp_path / "model.safetensors.index.json"
    found = json.loads(index.read_text())
    assert Checkpoint.open(tmp_path).tensors.keys() == found["weight_map"].keys()
    found["weight_map"]["model.norm.weight"] = next(
        s for s in found["weight_map"].values() if s != found["weight_map"]["model.norm.weight"]
    )
    index.write_text(json.dumps(found))
    with pytest.raises(CheckpointError, match=r"the index has model\.norm\.weight in"):
        Checkpoint.open(tmp_path)


def test_remote_code_is_noted(family: Family, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(family.base, tmp_path / "model"))
    assert Checkpoint.open(folder).notes == []
    config(auto_map={"AutoConfig": "own.Config"})(folder)
    assert "auto_map" in Checkpoint.open(folder).notes[0]


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
