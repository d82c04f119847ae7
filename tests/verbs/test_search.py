"""A search from the command line to the folder that it hands back."""

import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from check_kills import command, kill_and_resume, timeless
from conftest import Cli
from PIL import Image
from safetensors.torch import load_file
from support import QUICKSTART, rows_of

import vlmmerge
from vlmmerge.anatomy import Anatomy
from vlmmerge.cli import INTERRUPTED
from vlmmerge.config import load_option, plain, read_yaml
from vlmmerge.scoring.language import in_language
from vlmmerge.tasks import build_tasks

SYSTEMS = ["recipient", "ja", "uniform", "best"]
INTERVAL = {"mean", "low", "high"}


def results_of(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text("utf-8"))


def test_the_folder_holds_what_the_contract_says(searched: Path) -> None:
    assert {path.name for path in searched.iterdir()} == {
        "journal.jsonl",
        "results.json",
        "recipe.yaml",
        "model",
        "report.html",
        "config.yaml",
        "search.log",
    }
    assert "search ends" in (searched / "search.log").read_text("utf-8")


def test_results_are_as_the_contract_says(searched: Path) -> None:
    results = results_of(searched)
    tasks = ["ja_caption", "ja_vqa", "ja_culture", "en_caption", "en_vqa"]
    assert list(results["tasks"]) == [*tasks, "en_reading"]
    assert set(results["tasks"]["ja_vqa"]) == {"metric", "higher_is_better", "fingerprint"}
    for split, names, n in (("search", tasks, 16), ("holdout", [*tasks, "en_reading"], 24)):
        assert list(results[split]) == names
        for by in results[split].values():
            assert list(by) == SYSTEMS
            for score in by.values():
                assert set(score) >= {*INTERVAL, "stderr", "n", "metrics"}
                assert score["low"] <= score["mean"] <= score["high"]
                assert score["n"] == n
    assert list(results["objective"]["search"]) == SYSTEMS
    assert results["objective"]["search"]["recipient"] == 0
    assert set(results["objective"]["holdout"]) == set(SYSTEMS)
    assert set(results["objective"]["gain"]) == set(SYSTEMS) - {"best"}
    for system, gain in results["objective"]["gain"].items():
        held = results["objective"]["holdout"]
        assert gain["diff"] == pytest.approx(held["best"]["mean"] - held[system]["mean"])
        assert gain["low"] <= gain["diff"] <= gain["high"]
    cost = results["cost"]
    assert cost["candidates"] == 22
    evaluations = [row for row in rows_of(searched) if row["type"] == "evaluation"]
    assert cost["examples"] == sum(row["examples"] for row in evaluations)
    assert set(cost["seconds"]) == {"merging", "scoring", "strategy", "other"}
    assert results["frozen"] == {"tensors": 75, "changed": 0}
    assert results["pareto"]
    assert set(results["unseen_artwork"]) == {"ja_caption", "ja_vqa", "en_caption", "en_vqa"}


def test_search_rows_and_holdout_rows_are_the_tasks_own(searched: Path) -> None:
    header = rows_of(searched)[0]
    units = header["units"]
    assert not set(units["search"]["ja_vqa"]) & set(units["holdout"]["ja_vqa"])


def test_frozen_tensors_are_the_recipients_and_all_are_there(searched: Path) -> None:
    before = load_file(QUICKSTART / "vlm" / "model.safetensors")
    after = load_file(searched / "model" / "model.safetensors")
    assert {n: (t.shape, t.dtype) for n, t in before.items()} == {
        n: (t.shape, t.dtype) for n, t in after.items()
    }

    def digest(tensor: torch.Tensor) -> str:
        return hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()

    changed = {name for name in before if digest(before[name]) != digest(after[name])}
    assert not any("vision" in name or "projector" in name for name in changed)
    assert len(changed) >= 38  # of 39 in the backbone
    assert len(Anatomy.of(searched / "model").frozen) == 75


def test_the_model_answers_in_japanese_where_its_parent_does_not(searched: Path) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

    AutoProcessor.from_pretrained(searched / "model")
    _, problems = AutoModelForImageTextToText.from_pretrained(
        searched / "model", output_loading_info=True
    )
    assert not problems["missing_keys"]
    assert not problems["unexpected_keys"]
    examples = build_tasks(plain(load_option("tasks", "quickstart_ja")))["ja_vqa"].load("holdout")

    def answers(folder: Path) -> list[str]:
        pipe = pipeline("image-text-to-text", model=str(folder), dtype=torch.float32)
        return [ask(pipe, e.pictures[0].image, e.prompt) for e in examples[:16]]

    def ask(pipe: object, image: Image.Image, question: str) -> str:
        content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
        chat = [{"role": "user", "content": content}]
        out = pipe(chat, max_new_tokens=12, return_full_text=False)  # type: ignore[operator]
        return str(out[0]["generated_text"])

    ours, parents = answers(searched / "model"), answers(QUICKSTART / "vlm")
    assert sum(in_language(a, "ja") and bool(a) for a in ours) >= 8
    assert not any(in_language(a, "ja") and a for a in parents)
    right = [a in e.references for a, e in zip(ours, examples, strict=False)]
    assert sum(right) >= 2


def test_the_exported_folder_scores_what_the_candidate_scored(
    searched: Path, cli: Cli, tiny_conf: Path, tmp_path: Path
) -> None:
    by_row = {row["label"]: row for row in rows_of(searched) if row.get("split") == "holdout"}
    done = cli(
        "evaluate",
        "--config-dir",
        tiny_conf,
        "tasks=mine",
        f"model={searched}/model",
        f"output={tmp_path}/scores",
    )
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "scores" / "samples.jsonl").read_text("utf-8").splitlines()
    samples = [json.loads(line) for line in lines]
    for task, mine in (("ja_vqa", "ja"), ("en_vqa", "en")):
        candidate = by_row["best"]["tasks"][task]
        again = [sample for sample in samples if sample["task"] == mine]
        assert [sample["prediction"] for sample in again] == candidate["answers"]
        assert [sample["score"] for sample in again] == candidate["per_example"]
        assert candidate["answers"] != by_row["recipient"]["tasks"][task]["answers"]


def test_the_recipe_makes_the_same_model(searched: Path, cli: Cli, tmp_path: Path) -> None:
    done = cli("merge", f"recipe={searched}/recipe.yaml", f"output={tmp_path}/again")
    assert done.returncode == 0, done.stderr
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "again" / name).read_bytes() == (searched / "model" / name).read_bytes()


def test_the_same_seed_gives_the_same_journal_from_python_too(
    searched: Path, tiny_conf: Path, tmp_path: Path
) -> None:
    config = plain(read_yaml(searched / "config.yaml"))
    results = vlmmerge.search({**config, "output": str(tmp_path / "again")})
    ours = timeless((tmp_path / "again" / "journal.jsonl").read_bytes())
    theirs = timeless((searched / "journal.jsonl").read_bytes())
    assert ours[1:] == theirs[1:]
    assert {k: v for k, v in ours[0].items() if k != "config"} == {
        k: v for k, v in theirs[0].items() if k != "config"
    }
    assert results == json.loads((tmp_path / "again" / "results.json").read_text("utf-8"))


def test_the_journal_names_no_place(searched: Path) -> None:
    text = (searched / "journal.jsonl").read_text("utf-8")
    assert str(searched) not in text
    assert str(QUICKSTART) not in text


def test_a_finished_search_is_not_run_again(searched: Path, cli: Cli, tiny_conf: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in searched.iterdir()}
    done = cli(
        "search",
        "--config-dir",
        tiny_conf,
        "experiment=tiny",
        f"output={searched}",
        "resume=true",
    )
    assert done.returncode == 0
    assert "gain of best" in done.stdout
    assert {path.name: path.stat().st_mtime_ns for path in searched.iterdir()} == before


@pytest.mark.parametrize("after", [5.0, 11.0])
def test_killed_and_resumed_it_is_the_same_search(
    searched: Path, tiny_conf: Path, tmp_path: Path, after: float
) -> None:
    overrides = ("--config-dir", str(tiny_conf), "experiment=tiny")
    _, lines, problem = kill_and_resume(overrides, tmp_path / "run", searched, after)
    assert not problem
    assert lines == (searched / "journal.jsonl").read_bytes().count(b"\n")


def test_interrupted_it_says_so_and_keeps_what_is_done(tiny_conf: Path, tmp_path: Path) -> None:
    overrides = ("--config-dir", str(tiny_conf), "experiment=tiny")
    process = subprocess.Popen(
        command(overrides, tmp_path / "run"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    journal = tmp_path / "run" / "journal.jsonl"
    deadline = time.monotonic() + 60
    while not journal.exists() or journal.read_bytes().count(b"\n") < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert stderr == f"vlmmerge: {INTERRUPTED}\n"
    assert journal.read_bytes().endswith(b"\n")


def test_a_candidate_that_is_no_model_is_failed_and_the_search_goes_on(
    cli: Cli, tiny_conf: Path, tmp_path: Path
) -> None:
    done = cli(
        "search",
        "--config-dir",
        tiny_conf,
        "experiment=tiny",
        "budget.candidates=12",
        "space.parameters.weight={low: 0, high: 1e6, start: 5e5}",
        "dtype=float16",
        f"output={tmp_path}/run",
    )
    assert done.returncode == 0, done.stderr
    rows = [row for row in rows_of(tmp_path / "run") if row.get("phase") == "candidate"]
    assert len(rows) == 5
    failed = [row for row in rows if row["status"] == "failed"]
    assert failed
    assert all("not finite in float16" in row["reason"] for row in failed)
    assert all(row["objective"] is None for row in failed)
    assert "failed" in done.stdout
    assert results_of(tmp_path / "run")["chosen"].startswith("uniform")


def test_a_sweep_runs_into_folders_and_prints_one_table(
    cli: Cli, tiny_conf: Path, tmp_path: Path
) -> None:
    done = cli(
        "search",
        "-m",
        "--config-dir",
        tiny_conf,
        "seed=0,1",
        "method=ties,task_arithmetic",
        "experiment=tiny",
        "budget.candidates=12",
        f"output={tmp_path}/sweep",
    )
    assert done.returncode == 0, done.stderr
    for run in "0123":
        assert (tmp_path / "sweep" / run / "model" / "model.safetensors").exists()
    rows = json.loads((tmp_path / "sweep" / "sweep.json").read_text("utf-8"))
    assert [row["settings"] for row in rows] == [
        {"seed": seed, "method": method} for seed in "01" for method in ("ties", "task_arithmetic")
    ]
    for row in rows:
        held = results_of(tmp_path / "sweep" / row["run"])["objective"]["holdout"]
        assert row["objective"] == held["best"]
    assert done.stdout.count("sweep: best merges on the holdout") == 1


def test_a_sweep_over_donors(cli: Cli, tmp_path: Path) -> None:
    done = cli(
        "search",
        "-m",
        "models=quickstart_ja,quickstart_th",
        "experiment=quickstart",
        "budget.candidates=12",
        "budget.limit=8",
        "budget.finalists=1",
        *("splits.extra=[]", "~tasks.en_caption", "~tasks.en_reading", "objective.weights=null"),
        f"output={tmp_path}/sweep",
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "sweep" / "sweep.json").read_text("utf-8"))
    assert [row["settings"] for row in rows] == [
        {"models": "quickstart_ja"},
        {"models": "quickstart_th"},
    ]
    assert set(rows[1]["gain"]) == {"recipient", "th", "uniform"}


def test_a_plain_language_model_is_searched_the_same_way(cli: Cli, tmp_path: Path) -> None:
    done = cli(
        "search",
        "experiment=quickstart_llm",
        "budget.candidates=20",
        "budget.limit=24",
        f"output={tmp_path}/run",
    )
    assert done.returncode == 0, done.stderr
    results = results_of(tmp_path / "run")
    assert list(results["tasks"]) == ["ja_arithmetic", "ja_culture", "en_arithmetic", "en_reading"]
    assert results["frozen"] == {"tensors": 0, "changed": 0}
    assert set(results["objective"]["gain"]) == {"recipient", "maths", "uniform"}
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    assert model.get_input_embeddings().weight.shape[0] >= len(tokenizer) > 1000


def test_the_console_script_is_the_module() -> None:
    script = Path(sys.executable).with_name("vlmmerge")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == "vlmmerge 0.1.0\n"
