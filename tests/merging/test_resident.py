"""In place: what is merged into a live model is, stored value by stored value, what is written."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support import Family
from transformers import LlamaForCausalLM, LlavaForConditionalGeneration

from vlmmerge import Recipe
from vlmmerge.anatomy import Anatomy, align
from vlmmerge.checkpoints.statistics import file_of
from vlmmerge.config import build, load_option, options, plain
from vlmmerge.errors import EngineError
from vlmmerge.merging import ResidentMerge, write_merge
from vlmmerge.merging.tensor import MergedTensor
from vlmmerge.methods import Method
from vlmmerge.search.loop import transplant


def coefficients(method: str, weight: object) -> dict[str, dict[str, object]]:
    rule: Method = build(plain(load_option("method", method)), "method")
    first = [parameter.name for parameter in rule.per_source][:1]
    return {"ja": dict.fromkeys(first, weight)} if first else {}


def recipe(family: Family, method: str, weight: object, **shared: object) -> Recipe:
    return Recipe.from_config(
        {
            "models": {
                "recipient": family.vlm,
                "base": family.base,
                "donors": {"ja": family.donor},
            },
            "method": method,
            "coefficients": coefficients(method, weight),
            "shared": shared,
            "seed": 7,
        }
    )


def live(family: Family) -> LlavaForConditionalGeneration:
    return LlavaForConditionalGeneration.from_pretrained(family.vlm, dtype=torch.float32)


@pytest.fixture(scope="module")
def informed(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Family:
    """The same models with statistics made up for each, `{path, statistics}`."""
    generator = torch.Generator().manual_seed(0)

    def made_up(path: Path) -> dict[str, str]:
        folder = tmp_path_factory.mktemp("statistics")
        shapes = Anatomy.of(path).backbone
        fisher = {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}
        inputs = {n: torch.randn(50, s[1], generator=generator) for n, s in shapes.items() if s[1:]}
        save_file(fisher, file_of(folder, "fisher"))
        save_file({n: x.T @ x for n, x in inputs.items() if "proj" in n}, file_of(folder, "gram"))
        return {"path": str(path), "statistics": str(folder)}

    return replace(family, vlm=made_up(family.vlm), donor=made_up(family.donor))  # type: ignore[arg-type]


@pytest.mark.parametrize("method", options("method"))
def test_equals_the_written_merge(
    family: Family, informed: Family, tmp_path: Path, method: str
) -> None:
    models = informed if method in ("fisher", "regmean") else family
    wanted = recipe(models, method, {"all": 0.6, "layers.0-1.attn": 1.2})
    model = live(family)
    resident = ResidentMerge(align(wanted.models.open()), model, ["ja"])
    # By way of others, so that what is left over from them would show.
    resident.apply(recipe(models, method, 0.1))
    resident.apply(transplant(wanted, "ja"))
    resident.apply(wanted)
    write_merge(wanted, tmp_path / "out")
    written = LlavaForConditionalGeneration.from_pretrained(tmp_path / "out", dtype=torch.float32)
    expected = written.state_dict()
    assert all(torch.equal(t, expected[name]) for name, t in model.state_dict().items())


def test_transplants_are_the_models_themselves(family: Family) -> None:
    template = recipe(family, "ties", 0.5)
    model = live(family)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    resident = ResidentMerge(align(template.models.open()), model, ["ja"])
    resident.apply(transplant(template, "ja"))
    donor = LlavaForConditionalGeneration.from_pretrained(family.vlm, dtype=torch.float32)
    tuned = LlamaForCausalLM.from_pretrained(family.donor, dtype=torch.float32)
    layer = model.model.language_model.layers[1].mlp.up_proj.weight
    assert torch.equal(layer, tuned.model.layers[1].mlp.up_proj.weight)
    rows = tuned.lm_head.weight.shape[0]
    assert torch.equal(model.lm_head.weight[:rows], tuned.lm_head.weight)
    assert torch.equal(model.lm_head.weight[rows:], donor.lm_head.weight[rows:])
    resident.apply(transplant(template, "recipient"))
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_only_what_changed_is_redone(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    first = recipe(family, "task_arithmetic", {"all": 0.5, "layers.1.mlp": 0.5})
    second = recipe(family, "task_arithmetic", {"all": 0.5, "layers.1.mlp": 0.7})
    resident = ResidentMerge(align(first.models.open()), live(family), ["ja"])
    resident.apply(first)
    parts: list[str] = []
    form = MergedTensor.form

    def noted(self: MergedTensor, recipe: Recipe) -> object:
        parts.append(self.meeting.part)
        return form(self, recipe)

    monkeypatch.setattr(MergedTensor, "form", noted)
    resident.apply(second)
    assert set(parts) == {f"layers.1.mlp.{name}_proj.weight" for name in ("gate", "up", "down")}
    parts.clear()
    resident.apply(second)
    assert parts == []


def test_after_a_failure_the_next_candidate_is_whole(family: Family) -> None:
    good = recipe(family, "task_arithmetic", 0.5)
    model = live(family)
    resident = ResidentMerge(align(good.models.open()), model, ["ja"])
    resident.apply(good)
    expected = {name: t.clone() for name, t in model.state_dict().items()}
    huge = replace(recipe(family, "task_arithmetic", 1e6, **{"lambda": 100}), dtype="float16")
    with pytest.raises(EngineError, match="not finite"):
        resident.apply(huge)
    resident.apply(good)
    assert all(torch.equal(t, expected[name]) for name, t in model.state_dict().items())
