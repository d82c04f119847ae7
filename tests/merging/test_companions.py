"""The files beside the weights: the recipient's, changed only where they would be wrong."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import Family
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from vlmmerge import Recipe, merge


def recipe(recipient: Path, donor: Path, **more: object) -> Recipe:
    models = {"recipient": recipient, "donors": {"ja": donor}}
    coefficients = {"ja": {"weight": 0.5}}
    return Recipe.from_config(
        {"models": models, "method": "linear", "coefficients": coefficients, **more}
    )


def edited(folder: Path, target: Path, file: str = "config.json", **changes: object) -> Path:
    """A copy of a model whose JSON file says something else; None takes a key away."""
    if not target.exists():
        shutil.copytree(folder, target)
    content = json.loads((target / file).read_text()) | changes
    content = {key: value for key, value in content.items() if value is not None}
    (target / file).write_text(json.dumps(content))
    return target


def test_what_need_not_change_is_copied_byte_for_byte(family: Family, tmp_path: Path) -> None:
    vlm = tmp_path / "vlm"
    shutil.copytree(family.vlm, vlm)
    (vlm / "generation_config.json").write_text('{"max_new_tokens": 7}')
    (vlm / "notes.txt").write_text("鳥居")
    merge(recipe(vlm, family.donor), tmp_path / "out")
    names = {file.name for file in vlm.iterdir()} - {"model.safetensors"}
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (vlm / name).read_bytes(), name
    written = {file.name for file in (tmp_path / "out").iterdir()}
    assert written == names | {"model.safetensors", "README.md"}
    AutoProcessor.from_pretrained(tmp_path / "out")


@pytest.mark.parametrize(
    ("said", "asked", "written"),
    [
        ({"dtype": "float32"}, None, "bfloat16"),  # the config of another precision
        ({"dtype": None, "torch_dtype": "float16"}, None, "bfloat16"),
        ({"dtype": None}, None, "bfloat16"),
        ({"dtype": None, "torch_dtype": "bfloat16"}, "float32", "float32"),
        ({}, "float16", "float16"),
    ],
)
def test_the_config_says_the_dtype_that_is_stored(
    family: Family, tmp_path: Path, said: dict[str, object], asked: str | None, written: str
) -> None:
    vlm = edited(family.vlm, tmp_path / "vlm", **said)
    merge(recipe(vlm, family.donor, dtype=asked), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["dtype"] == written
    assert "torch_dtype" not in config
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", dtype="auto")
    weight = loaded.model.language_model.norm.weight
    assert weight.dtype == getattr(torch, written)
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(stored["language_model.model.norm.weight"], weight)


def test_an_older_dtype_that_is_right_stays(family: Family, tmp_path: Path) -> None:
    vlm = edited(family.vlm, tmp_path / "vlm", dtype=None, torch_dtype="bfloat16")
    merge(recipe(vlm, family.donor), tmp_path / "out")
    one, two = (folder / "config.json" for folder in (vlm, tmp_path / "out"))
    assert one.read_bytes() == two.read_bytes()


def test_code_that_is_not_there_is_not_named(family: Family, tmp_path: Path) -> None:
    mapped = {"auto_map": {"AutoConfig": "configuration_mine.MineConfig"}}
    vlm = edited(family.vlm, tmp_path / "vlm", **mapped)
    edited(family.vlm, vlm, "tokenizer_config.json", **mapped)
    (vlm / "configuration_mine.py").write_text("raise SystemExit('remote code was run')")
    merge(recipe(vlm, family.donor), tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.py"))
    for name in ("config.json", "tokenizer_config.json"):
        before = json.loads((vlm / name).read_text())
        after = json.loads((tmp_path / "out" / name).read_text())
        assert {k: v for k, v in before.items() if k != "auto_map"} == after
    assert AutoConfig.from_pretrained(tmp_path / "out").model_type == "llava"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "its config names remote code (auto_map), which is not run" in card


def test_an_index_of_other_shards_is_not_copied(family: Family, tmp_path: Path) -> None:
    vlm = tmp_path / "vlm"
    shutil.copytree(family.vlm, vlm)
    tensors = load_file(vlm / "model.safetensors")
    (vlm / "model.safetensors").unlink()
    halves = (dict(list(tensors.items())[:40]), dict(list(tensors.items())[40:]))
    weight_map = {}
    for i, half in enumerate(halves, 1):
        shard = f"model-0000{i}-of-00002.safetensors"
        save_file(half, vlm / shard, {"format": "pt"})
        weight_map |= dict.fromkeys(half, shard)
    index = {"metadata": {}, "weight_map": weight_map}
    (vlm / "model.safetensors.index.json").write_text(json.dumps(index))
    merge(recipe(vlm, family.donor), tmp_path / "out")
    merge(recipe(family.vlm, family.donor), tmp_path / "whole")
    assert {file.name for file in (tmp_path / "out").glob("model*")} == {"model.safetensors"}
    one, two = (load_file(tmp_path / n / "model.safetensors") for n in ("out", "whole"))
    assert all(torch.equal(one[name], two[name]) for name in two)
