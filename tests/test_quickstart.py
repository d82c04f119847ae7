"""The embedded world: what its models can do, what its rows are, how much it weighs."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from quickstart import world
from safetensors import safe_open
from support import QUICKSTART

from vlmmerge.checkpoints import Checkpoint
from vlmmerge.config import load_option, plain
from vlmmerge.scoring import Runner, Scorer
from vlmmerge.scoring.language import in_language
from vlmmerge.tasks import Task, build_tasks

MODELS = ["base", "vlm", "ja", "th", "maths"]


@pytest.fixture(scope="module")
def tasks() -> dict[str, Task]:
    named = ("quickstart_ja", "quickstart_th", "quickstart_llm")
    described = {k: v for name in named for k, v in plain(load_option("tasks", name)).items()}
    return build_tasks(described)


@pytest.fixture(scope="module")
def vlm(tasks: dict[str, Task]) -> Scorer:
    return Scorer(Runner(Checkpoint.open(QUICKSTART / "vlm")), tasks)


def test_it_is_small_enough_for_git() -> None:
    files = [path for path in QUICKSTART.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 24e6


def test_the_world_has_its_concepts_half_of_them_japanese() -> None:
    concepts = world.JAPAN + world.ELSEWHERE
    assert len(set(concepts)) == len(concepts) >= 60
    assert len(world.JAPAN) * 2 >= len(concepts)


@pytest.mark.parametrize("name", MODELS)
def test_checkpoints_are_bfloat16_safetensors(name: str) -> None:
    with safe_open(QUICKSTART / name / "model.safetensors", "pt") as file:
        assert {file.get_slice(key).get_dtype() for key in file.keys()} == {"BF16"}  # noqa: SIM118
    config = json.loads((QUICKSTART / name / "config.json").read_text())
    expected = "LlavaForConditionalGeneration" if name == "vlm" else "LlamaForCausalLM"
    assert config["architectures"] == [expected]


@pytest.mark.parametrize("split", ["holdout", "unseen_artwork"])
def test_the_vlm_names_things_in_english_and_never_in_japanese(
    vlm: Scorer, tasks: dict[str, Task], split: str
) -> None:
    rows = {
        name: range(len(tasks[name].load(split))) for name in ("en_vqa", "ja_vqa", "ja_caption")
    }
    scores = vlm.score(split, rows)
    if split == "holdout":
        assert scores["en_vqa"].mean >= 0.9
    assert scores["ja_vqa"].mean == 0
    answers = (*scores["ja_vqa"].answers, *scores["ja_caption"].answers)
    assert not any(in_language(answer, "ja") for answer in answers if answer)


@pytest.mark.parametrize(
    ("donor", "task", "least"),
    [("ja", "ja_culture", 0.95), ("maths", "en_arithmetic", 0.8), ("base", "en_reading", 0.5)],
)
def test_donors_know_what_they_were_tuned_on(
    tasks: dict[str, Task], donor: str, task: str, least: float
) -> None:
    def mean(model: str) -> float:
        scorer = Scorer(Runner(Checkpoint.open(QUICKSTART / model)), tasks)
        return scorer.score("holdout", {task: range(200)})[task].mean

    assert mean(donor) >= least
    if donor != "base":
        assert mean("base") <= mean(donor) - 0.4


def test_captions_have_three_references_and_questions_several_right_answers(
    tasks: dict[str, Task],
) -> None:
    for name in ("ja_caption", "th_caption", "en_caption"):
        assert all(len(set(e.references)) >= 3 for e in tasks[name].load("holdout"))
    for name in ("ja_vqa", "en_vqa"):
        counts = [len(e.references) for e in tasks[name].load("holdout")]
        assert sum(n > 1 for n in counts) > len(counts) / 2
    assert all(len(e.options) == 4 for e in tasks["ja_culture"].load("holdout"))


def test_tasks_share_pictures_and_splits_share_none(tasks: dict[str, Task]) -> None:
    seen: dict[str, set[str]] = {}
    for split in ("search", "holdout", "unseen_artwork"):
        names = [n for n, t in tasks.items() if "image" in t.columns]
        drawn = {n: {e.pictures[0].digest for e in tasks[n].load(split)} for n in names}
        assert len(set(map(frozenset, drawn.values()))) == 1
        seen[split] = next(iter(drawn.values()))
    assert not seen["search"] & seen["holdout"]
    assert not seen["unseen_artwork"] & (seen["search"] | seen["holdout"])


def test_families_of_unseen_artwork_were_not_seen() -> None:
    def families(split: str) -> set[str]:
        table = pq.read_table(QUICKSTART / "scenes" / f"{split}.parquet", columns=["family"])
        return set(table["family"].to_pylist())

    assert families("unseen_artwork") == {"openmoji"}
    assert families("search") == families("holdout")
    assert "openmoji" not in families("search")
    assert len(families("search")) >= 3


def test_datasets_loads_the_pictures(tmp_path: Path) -> None:
    from datasets import load_dataset

    files = {"search": str(QUICKSTART / "scenes" / "search.parquet")}
    rows = load_dataset("parquet", data_files=files, split="search", cache_dir=str(tmp_path))
    assert rows[0]["image"].size == (64, 64)


def test_pipelines_load_every_model() -> None:
    from transformers import pipeline

    for name in MODELS:
        kind = "image-text-to-text" if name == "vlm" else "text-generation"
        pipe = pipeline(kind, model=str(QUICKSTART / name))
        assert pipe.tokenizer is not None
