"""The tool that merges a tiny model of every type: what it sees, and what it must not miss."""

import shutil
from collections.abc import Callable
from pathlib import Path

import check_types
import pytest
import torch
from check_types import MERGED, Outcome, outcome_of, page
from safetensors.torch import load_file, save_file
from tiny_types import TABLE, TINY

import vlmmerge
from vlmmerge import Recipe
from vlmmerge.merging import Written

Change = Callable[[dict[str, torch.Tensor]], object]


def test_what_is_said_of_types_is_of_types_there_are() -> None:
    assert set(TINY["types"]) <= set(TABLE)


@pytest.mark.parametrize("kind", ["llava", "gemma4"])
def test_a_type_is_merged(kind: str) -> None:
    outcome = outcome_of(kind)
    assert (outcome.what, outcome.surprise) == (MERGED, "")
    assert outcome.tensors > 50


def test_a_type_is_refused() -> None:
    outcome = outcome_of("pix2struct")
    assert outcome.what.startswith("refused: an encoder-decoder")
    assert not outcome.surprise


def test_an_error_is_an_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(kind: str) -> None:
        raise RuntimeError("the reason")

    monkeypatch.setattr(check_types, "built", fail)
    outcome = outcome_of("llava")
    assert outcome.what == "failed: RuntimeError: the reason"
    assert outcome.surprise == MERGED


def a_frozen_one(tensors: dict[str, torch.Tensor]) -> None:
    next(t for name, t in tensors.items() if "vision_tower" in name).flatten()[0] += 1


def a_merged_one(tensors: dict[str, torch.Tensor]) -> None:
    next(t for name, t in tensors.items() if name.endswith("lm_head.weight")).flatten()[0] += 1


def a_name(tensors: dict[str, torch.Tensor]) -> None:
    name = next(iter(tensors))
    tensors[f"{name}_"] = tensors.pop(name)


def a_dtype(tensors: dict[str, torch.Tensor]) -> None:
    name = next(iter(tensors))
    tensors[name] = tensors[name].double()


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        (a_frozen_one, "tensors changed"),
        (a_merged_one, "lm_head.weight is not as the reference"),
        (a_name, "other names"),
        (a_dtype, "other names, shapes or dtypes"),
    ],
)
def test_a_broken_merge_is_seen(change: Change, seen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    merge = vlmmerge.merge

    def broken(recipe: Recipe, output: Path) -> Written:
        written = merge(recipe, output)
        for file in output.glob("*.safetensors"):
            tensors = load_file(file)
            change(tensors)
            save_file(tensors, file, {"format": "pt"})
        return written

    monkeypatch.setattr(vlmmerge, "merge", broken, raising=False)
    outcome = outcome_of("llava")
    assert seen in outcome.what
    assert outcome.surprise == MERGED


def test_an_unmerged_model_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def copied(recipe: Recipe, output: Path) -> Written:
        source = Path(recipe.to_config()["models"]["recipient"])
        shutil.copytree(source, output)
        return Written(output, 0, len(check_types.stored(source)), 0, 0)

    monkeypatch.setattr(vlmmerge, "merge", copied, raising=False)
    assert "is not as the reference" in outcome_of("llava").what


def test_the_page_has_a_line_for_each_type() -> None:
    outcomes = [
        Outcome("mllama", MERGED, 9, 1.0),
        Outcome("udop", "refused: an encoder-decoder", 9, 1.0),
        Outcome("shieldgemma2", "failed: a|b", 0, 1.0),
    ]
    made = page(outcomes, 3.0)
    assert "Of the 3 image-text-to-text types" in made
    assert "1 merged, 1 refused, 1 failed.\n" in made
    frozen = "vision_model, multi_modal_projector, *the layers of cross-attention*"
    assert (
        f"| `mllama` | MllamaForConditionalGeneration | `llama` | {frozen} | {MERGED} |\n" in made
    )
    assert "| – |  | refused: an encoder-decoder |\n" in made
    assert "| ShieldGemma2ForImageClassification |" in made
    assert "a/b" in made
