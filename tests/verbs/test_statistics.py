"""vlmmerge statistics: what it writes is what fisher and regmean read."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support import QUICKSTART, Family

from vlmmerge import Recipe
from vlmmerge.anatomy import Anatomy
from vlmmerge.checkpoints import Checkpoint
from vlmmerge.config import complete, load_option, plain
from vlmmerge.errors import CheckpointError, ConfigError
from vlmmerge.merging import write_merge
from vlmmerge.scoring import Runner
from vlmmerge.scoring.encoding import Encoded
from vlmmerge.scoring.informing import answered, gather
from vlmmerge.tasks import build_tasks
from vlmmerge.verbs.statistics import run


def task(name: str) -> dict[str, object]:
    node: dict[str, object] = plain(load_option("tasks/quickstart", name))
    return node


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """The quickstart VLM and a donor with their statistics, as sources of a recipe."""
    root = tmp_path_factory.mktemp("statistics")
    sources = {}
    for name, tasks in (("vlm", ["ja_vqa", "ja_culture"]), ("ja", ["ja_culture"])):
        path = str(QUICKSTART / name)
        nodes = {t: task(t) for t in tasks}
        given = {"model": path, "tasks": nodes, "limit": 2, "output": str(root / name)}
        run(complete("statistics", given))
        sources[name] = {"path": path, "statistics": str(root / name)}
    return sources


def test_a_folder_has_a_number_for_every_weight(made: dict[str, dict[str, str]]) -> None:
    folder = Path(made["vlm"]["statistics"])
    fisher, gram = (load_file(folder / f"{kind}.safetensors") for kind in ("fisher", "gram"))
    backbone = Anatomy.of(made["vlm"]["path"]).backbone
    assert {name: tuple(t.shape) for name, t in fisher.items()} == dict(backbone)
    assert all(bool((t >= 0).all()) and bool(t.isfinite().all()) for t in fisher.values())
    assert all(float(t.sum()) > 0 for t in fisher.values())
    layers = {n for n in backbone if "_proj" in n}
    assert layers <= gram.keys()
    for name in layers:
        assert gram[name].shape == (backbone[name][1],) * 2
        assert torch.allclose(gram[name], gram[name].T)
        assert float(gram[name].trace()) > 0
    said = json.loads((folder / "statistics.json").read_text())
    assert said["examples"] == 4
    assert said["model"] == Checkpoint.open(made["vlm"]["path"]).fingerprint


@pytest.mark.parametrize("method", ["fisher", "regmean"])
def test_they_are_merged_by(made: dict[str, dict[str, str]], tmp_path: Path, method: str) -> None:
    wanted = Recipe.from_config(
        {
            "models": {"recipient": made["vlm"], "donors": {"ja": made["ja"]}},
            "method": method,
            "coefficients": {"ja": {"weight": 0.5}},
        }
    )
    written = write_merge(wanted, tmp_path / "out")
    assert written.changed == 0
    wanted.save(tmp_path / "recipe.yaml")
    assert Recipe.load(tmp_path / "recipe.yaml").models == wanted.models.absolute()


def test_statistics_of_another_model_are_refused(
    made: dict[str, dict[str, str]], family: Family, tmp_path: Path
) -> None:
    other = {"path": str(family.donor), "statistics": made["ja"]["statistics"]}
    wanted = Recipe.from_config(
        {
            "models": {"recipient": other, "donors": {"ja": other}},
            "method": "fisher",
            "coefficients": {"ja": {}},
        }
    )
    with pytest.raises(CheckpointError, match="are not this model's statistics"):
        write_merge(wanted, tmp_path / "out")
    none = replace(wanted.models.recipient, statistics=str(tmp_path))
    with pytest.raises(CheckpointError, match=r"has no fisher.safetensors"):
        write_merge(
            replace(wanted, models=replace(wanted.models, recipient=none)), tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()


def test_fisher_is_the_mean_squared_gradient(family: Family) -> None:
    runner = Runner(Checkpoint.open(str(family.donor)))
    rows = [Encoded((5, 6, 7), {}, (), ((8, 9),)), Encoded((4, 5), {}, (), ((11,),))]
    found = gather(runner, rows)
    expected = 0.0
    hidden = []
    name, weight = "model.layers.1.mlp.up_proj.weight", None
    weight = dict(runner.model.named_parameters())[name]
    for row in rows:
        ids = torch.tensor([[*row.ids, *row.options[0]]])
        out = runner.model(ids, output_hidden_states=True)
        hidden.append(out.hidden_states[-1][0].detach())
        at = range(len(row.ids) - 1, ids.shape[1] - 1)
        likelihood = sum(out.logits[0, i].log_softmax(-1)[ids[0, i + 1]] for i in at)
        expected = expected + torch.autograd.grad(likelihood, weight)[0] ** 2 / len(rows)
    assert torch.allclose(found.fisher[name], expected, rtol=1e-4, atol=1e-9)
    seen = torch.cat(hidden)
    assert torch.allclose(found.gram["lm_head.weight"], seen.T @ seen / len(seen), rtol=1e-4)
    assert (found.examples, found.tokens) == (2, 8)
    assert all(p.grad is None for p in runner.model.parameters())


def test_an_answer_is_the_first_reference() -> None:
    runner = Runner(Checkpoint.open(str(QUICKSTART / "ja")))
    culture = build_tasks(
        {"culture": {**task("ja_culture"), "scored": "letter", "prompt": "{options}"}}
    )["culture"]
    example = culture.load("search")[0]
    row = answered(runner, culture, example)
    letter = "ABCD"[example.options.index(example.references[0])]
    assert runner.encoder.tokenizer.decode(row.options[0]).strip() == letter


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    given = {"model": str(QUICKSTART / "vlm"), "tasks": {"a": task("ja_vqa")}}
    with pytest.raises(ConfigError, match=r"limit: 0 is not a whole number"):
        run(complete("statistics", {**given, "limit": 0, "output": str(tmp_path / "out")}))
    assert not (tmp_path / "out").exists()
