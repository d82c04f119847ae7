"""Adapters by the verbs: inspected, searched with and written, and said to be so."""

import json
from pathlib import Path

import pytest
import torch
from adapters import adapter
from families.folders import Saved
from omegaconf import OmegaConf
from support import Family
from transformers import LlamaForCausalLM, LlavaForConditionalGeneration

from vlmmerge import Recipe, merge
from vlmmerge.config import CONF, complete
from vlmmerge.errors import AlignmentError
from vlmmerge.verbs.inspect import run as inspect
from vlmmerge.verbs.merge import run as merge_verb
from vlmmerge.verbs.search import header_of, prepare


@pytest.fixture(scope="module")
def lora(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the base."""
    base = Saved(LlamaForCausalLM, family.base, torch.bfloat16)
    path = tmp_path_factory.mktemp("verbs") / "lora"
    return adapter(base, path, target_modules=["q_proj"], modules_to_save=["norm"])


def models(family: Family, donor: Path) -> dict[str, object]:
    return {
        "recipient": str(family.vlm),
        "base": str(family.base),
        "donors": {"ja": str(donor)},
    }


def test_inspect_shows_what_an_adapter_is(
    family: Family, lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = OmegaConf.load(CONF / "inspect.yaml")
    settings = {"model": str(family.vlm), "base": str(family.base), "format": "json"}
    inspect(OmegaConf.merge(node, settings, {"donors": {"ja": str(lora)}}))  # type: ignore[arg-type]
    said = json.loads(capsys.readouterr().out)
    assert said["sources"]["ja"] == {"path": str(lora), "tensors": 6 + 7, "meets": 30}  # norms
    assert set(said["sources"]) == {"base", "ja"}

    vlm = Saved(LlavaForConditionalGeneration, family.vlm, torch.bfloat16)
    wide = adapter(vlm, tmp_path / "wide", target_modules=["q_proj"])
    asked = OmegaConf.merge(node, settings, {"donors": {"ja": str(wide)}})
    with pytest.raises(AlignmentError, match="drop_frozen=true leaves them out"):
        inspect(asked)  # type: ignore[arg-type]
    inspect(OmegaConf.merge(asked, {"drop_frozen": True}))  # type: ignore[arg-type]
    said = json.loads(capsys.readouterr().out)
    assert any("left out" in warning for warning in said["warnings"])
    assert said["sources"]["ja.base"]["path"] == str(family.vlm)


def test_a_search_knows_an_adapter_by_its_content(family: Family, lora: Path) -> None:
    given = {"experiment": "quickstart", "output": "x", "models": models(family, lora)}
    node = complete("search", given)
    told = header_of(node, prepare(node))["models"]
    assert told["ja"]["name"] == "lora"
    assert told["ja"]["fingerprint"] != told["base"]["fingerprint"]


def test_merge_says_what_the_adapter_holds(
    family: Family, lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = Recipe.from_config(
        {
            "models": models(family, lora),
            "method": "task_arithmetic",
            "coefficients": {"ja": {"weight": 0.5}},
        }
    )
    recipe.save(tmp_path / "recipe.yaml")
    given = {"recipe": str(tmp_path / "recipe.yaml"), "output": str(tmp_path / "out"), "adapter": 2}
    merge_verb(complete("merge", given))
    out = capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "adapter" / "energy.json").read_text())
    assert f"{tmp_path}/out/adapter: rank 2 holds {report['energy']:.2%} of the difference" in out
    assert "q_proj.weight" in out
    merge(recipe, tmp_path / "plain")
    for name in ("model.safetensors", "config.json", "README.md"):
        one, other = (tmp_path / folder / name for folder in ("out", "plain"))
        assert one.read_bytes() == other.read_bytes()
