"""vlmmerge inspect: every stored tensor under one part, and what a merge would take, as it is."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from families import FAMILIES
from families.folders import save as save_model
from omegaconf import OmegaConf
from support import Family, llama_config, save, word_tokenizer
from transformers import LlamaForCausalLM

from vlmmerge import Checkpoint, Recipe, merge
from vlmmerge.anatomy import align
from vlmmerge.config import CONF
from vlmmerge.errors import AlignmentError, ConfigError
from vlmmerge.recipes import ModelSpecs
from vlmmerge.verbs.inspect import describe, run


def found(output: Path, recipient: Path, **donors: Path) -> dict[str, object]:
    models = ModelSpecs.parse({"recipient": recipient, "donors": donors}).open()
    return describe(align(models), output)


def ask(**settings: object) -> None:
    """Run the verb as composed, `settings` on top."""
    node = OmegaConf.load(CONF / "inspect.yaml")
    run(OmegaConf.merge(node, {k: str(v) for k, v in settings.items()}))  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", ["hub", "live"])
@pytest.mark.parametrize("name", ["llava", "mllama", "qwen3_vl_moe", "ernie4_5_vl_moe", "blip2"])
def test_parts_add_up_to_the_file(name: str, layout: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    saved = save_model(family.build(), tmp_path / "m", layout, False, torch.bfloat16)
    said = found(tmp_path, saved.path)
    stored = saved.stored()
    merged = [n for n in stored if family.merges(n)]
    parts: dict[str, dict[str, int]] = said["parts"]  # type: ignore[assignment]
    backbone = [part for name, part in parts.items() if name.startswith("backbone")]
    assert sum(part["tensors"] for part in backbone) == len(merged) == said["plan"]["merged"]  # type: ignore[index]
    assert sum(part["tensors"] for part in parts.values()) == len(stored)
    size = sum(t.dtype.itemsize * math.prod(t.shape) for t in stored.values())
    assert sum(part["bytes"] for part in parts.values()) == size
    assert said["plan"]["write_bytes"] == size  # type: ignore[index]


def test_what_is_said_of_a_merge_is_what_it_does(family: Family, tmp_path: Path) -> None:
    models = {"recipient": family.vlm, "donors": {"ja": family.donor}}
    said = found(tmp_path / "not" / "there", family.vlm, ja=family.donor)
    recipe = {"models": models, "method": "linear", "coefficients": {"ja": {"weight": 0.5}}}
    written = merge(Recipe.from_config(recipe), tmp_path / "out")
    plan: dict[str, int] = said["plan"]  # type: ignore[assignment]
    fates = ("merged", "frozen", "copied")
    assert [plan[fate] for fate in fates] == [getattr(written, fate) for fate in fates]
    tensors = Checkpoint.open(tmp_path / "out").tensors.values()
    assert plan["write_bytes"] == sum(info.nbytes for info in tensors)
    files = [folder / "model.safetensors" for folder in (family.vlm, family.donor)]
    headers = [8 + int.from_bytes(file.read_bytes()[:8], "little") for file in files]
    assert plan["read_bytes"] == sum(f.stat().st_size for f in files) - sum(headers)
    assert plan["disk_free_bytes"] == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.05)
    assert plan["download_bytes"] == 0


def test_vocabularies_are_counted(family: Family, tmp_path: Path) -> None:
    words = [*family.words[5:], "海", "石"]
    tokenizer = word_tokenizer(words, ["<pad>", "<unk>", "<end>"])
    model = LlamaForCausalLM(llama_config(tokenizer))
    donor = save(model, tokenizer, tmp_path / "donor")
    said = found(tmp_path, family.vlm, ja=donor)
    rows = len(family.words) + 4
    shared = rows - 5 - 1  # five words and the image token are the recipient's alone
    assert said["vocabulary"] == {
        "rows": rows,
        "merged": shared,
        "met": {"ja": shared},
        "beyond": {"ja": 2},
    }


def test_as_a_table_and_as_json(family: Family, capsys: pytest.CaptureFixture[str]) -> None:
    donors = {"ja": str(family.donor)}
    node = OmegaConf.load(CONF / "inspect.yaml")
    settings = {"model": str(family.vlm), "base": str(family.base), "donors": donors}
    run(OmegaConf.merge(node, settings, {"format": "json"}))  # type: ignore[arg-type]
    said = json.loads(capsys.readouterr().out)
    assert said["class"] == "LlavaForConditionalGeneration"
    assert said["sources"]["ja"]["meets"] == said["sources"]["base"]["meets"] == 30
    run(OmegaConf.merge(node, settings))  # type: ignore[arg-type]
    table = capsys.readouterr().out
    for words in ("backbone layers.*.attn", "frozen vision_tower", "30 tensors merged, 43 frozen"):
        assert words in table


def test_what_stays_frozen_inside_the_decoder_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    family = FAMILIES["mllama"]
    saved = save_model(family.build(), tmp_path / "m", "hub", False, torch.bfloat16)
    ask(model=saved.path)
    assert "inside the decoder stay frozen: cross-attention" in capsys.readouterr().out


def test_strict_refuses_what_is_only_warned_of(family: Family, tmp_path: Path) -> None:
    tokenizer = word_tokenizer(family.words, ["<pad>", "<unk>", "<end>"])
    model = LlamaForCausalLM(llama_config(tokenizer, rms_norm_eps=1e-5))
    other = save(model, tokenizer, tmp_path / "donor")
    ask(model=family.vlm, base=other)
    node = OmegaConf.load(CONF / "inspect.yaml")
    settings = {"model": str(family.vlm), "base": str(other), "strict": True}
    with pytest.raises(AlignmentError, match=r"norm epsilon 1e-05.*\(strict=true\)"):
        run(OmegaConf.merge(node, settings))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="strict: 'maybe' is not true or false"):
        run(OmegaConf.merge(node, settings, {"strict": "maybe"}))  # type: ignore[arg-type]
