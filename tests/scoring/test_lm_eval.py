"""lm-eval's tasks on a live model: its own figures, and nothing of the model or the run changed."""

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval_files import CHOICE, WORDS, N, write_rows, write_task, written
from support import Family, llama_config, tuned, word_tokenizer
from transformers import AutoTokenizer, LlamaForCausalLM

from vlmmerge import config
from vlmmerge.anatomy import align
from vlmmerge.engines import Job, Worker
from vlmmerge.errors import EngineError
from vlmmerge.merging import write_merge
from vlmmerge.recipes import Recipe
from vlmmerge.scoring import check_judges
from vlmmerge.scoring.lm_eval import LmEval
from vlmmerge.tasks import build_tasks, check_overlap
from vlmmerge.tasks.lm_eval import LmEvalTask
from vlmmerge.verbs.evaluate import evaluate


@pytest.fixture(scope="module")
def model(family: Family) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(family.donor, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def lm_eval(family: Family, model: LlamaForCausalLM) -> LmEval:
    return LmEval(model, AutoTokenizer.from_pretrained(family.donor))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, family: Family) -> Path:
    """Task files and rows; in every other row the model writes what is to be written."""
    data = tmp_path_factory.mktemp("lm_eval")
    rows = written(data)
    config.trusted.append(str(data))
    model = LlamaForCausalLM.from_pretrained(family.donor, dtype=torch.float32).eval()
    answered = LmEval(model, AutoTokenizer.from_pretrained(family.donor)).score(
        LmEvalTask("w", "tiny_write", "exact_match", include_path=str(data)), "all", range(N)
    )
    config.trusted.remove(str(data))
    for i in range(0, N, 2):
        rows[i]["answer"] = answered.answers[i]
    write_rows(data / "write.jsonl", rows)
    return data


@pytest.fixture
def task(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., LmEvalTask]:
    monkeypatch.setattr(config, "trusted", [*config.trusted, str(folder)])

    def make(name: str = "tiny_choice", metric: str = "acc", **changes: Any) -> LmEvalTask:
        return LmEvalTask("t", name, metric, **{"include_path": str(folder), **changes})

    return make


def own_command(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], output: Path
) -> dict[str, dict[str, float]]:
    """What `lm_eval ARGUMENTS` finds."""
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.tasks import TaskManager

    # It would read its ten thousand own task files first.
    monkeypatch.setattr(TaskManager.__init__, "__defaults__", (None, None, False, None))
    monkeypatch.setattr(sys, "argv", ["lm_eval", *arguments])
    cli_evaluate()
    (found,) = output.rglob("results_*.json")
    results: dict[str, dict[str, float]] = json.loads(found.read_text())["results"]
    return results


def candidate(family: Family, weight: float) -> Recipe:
    return Recipe.from_config(
        {
            "models": {
                "recipient": str(family.donor),
                "base": str(family.base),
                "donors": {"x": str(family.second)},
            },
            "method": "task_arithmetic",
            "coefficients": {"x": {"weight": weight}},
        }
    )


def test_a_resident_candidate_has_the_figures_of_lm_evals_own_command_on_its_folder(
    task: Callable[..., LmEvalTask],
    folder: Path,
    family: Family,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_task(folder, "shots", CHOICE + "num_fewshot: 2\n", tiny_choice="shots")
    described = {"kind": "lm_eval", "include_path": str(folder)}
    tasks = build_tasks(
        {
            "choice": {**described, "task": "shots", "metric": "acc"},
            "write": {**described, "task": "tiny_write", "metric": "exact_match"},
        }
    )
    check_judges(tasks.values())
    check_overlap(tasks.values(), "search", "holdout")
    recipe = candidate(family, 0.3)
    worker = Worker(align(recipe.models.open()), recipe, tasks, "cpu", 1)
    rows = {name: range(N) for name in tasks}
    other = worker.run(Job(candidate(family, 1.5), "all", rows))
    found = worker.run(Job(recipe, "all", rows))
    assert other.failure is found.failure is None
    assert found.generated_tokens > N
    for name in tasks:
        assert other.scores[name].answers != found.scores[name].answers

    write_merge(recipe, tmp_path / "model")
    arguments = ["--model", "hf", "--device", "cpu", "--include_path", str(folder)]
    arguments += ["--model_args", f"pretrained={tmp_path / 'model'},dtype=float32"]
    arguments += ["--tasks", "shots,tiny_write", "--output_path", str(tmp_path / "out")]
    theirs = own_command(monkeypatch, arguments, tmp_path / "out")
    choice, write = found.scores["choice"], found.scores["write"]
    assert choice.mean == pytest.approx(theirs["shots"]["acc,none"])
    assert choice.metrics == {
        "acc": theirs["shots"]["acc,none"],
        "acc_norm": theirs["shots"]["acc_norm,none"],
    }
    assert 0 < choice.mean < 1
    assert write.metrics == {"exact_match": theirs["tiny_write"]["exact_match,none"]}
    assert 0 < write.mean < 1


def test_a_chat_template_is_used_as_lm_evals_own_command_uses_it(
    task: Callable[..., LmEvalTask],
    lm_eval: LmEval,
    folder: Path,
    family: Family,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine = task(chat=True, num_fewshot=2, system="red blue")
    asked = lm_eval.score(mine, "all", range(N))
    arguments = ["--model", "hf", "--device", "cpu", "--include_path", str(folder)]
    arguments += ["--model_args", f"pretrained={family.donor},dtype=float32"]
    arguments += ["--tasks", "tiny_choice", "--num_fewshot", "2", "--output_path", str(tmp_path)]
    arguments += ["--apply_chat_template", "--fewshot_as_multiturn", "--log_samples"]
    arguments += ["--system_instruction", "red blue"]
    theirs = own_command(monkeypatch, arguments, tmp_path)
    assert asked.metrics["acc"] == theirs["tiny_choice"]["acc,none"]
    (found,) = tmp_path.rglob("samples_*.jsonl")
    rows = [json.loads(line) for line in found.read_text().splitlines()]
    shown = [row["arguments"]["gen_args_0"]["arg_0"] for row in rows]
    assert [r[0].args[0] for r in lm_eval._requests[mine]] == shown
    assert [row["acc"] for row in rows] == list(asked.per_example)
    assert "red blue" in shown[0]
    assert shown != [example.prompt for example in mine.load("all")]  # without the template


def test_evaluate_writes_what_lm_eval_says(
    task: Callable[..., LmEvalTask], lm_eval: LmEval, family: Family, tmp_path: Path
) -> None:
    mine = task("tiny_write", "exact_match")
    results = evaluate(family.donor, {"t": mine}, split="all", output=tmp_path / "out")
    expected = lm_eval.score(mine, "all", range(N))
    assert results["t"]["mean"] == pytest.approx(expected.metrics["exact_match"])
    assert 0.4 < results["t"]["mean"] < 1
    assert results["t"]["fingerprint"] == mine.fingerprint
    lines = (tmp_path / "out" / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    samples = [json.loads(line) for line in lines]
    assert [sample["prediction"] for sample in samples] == list(expected.answers)
    assert [sample["score"] for sample in samples] == list(expected.per_example)
    assert samples[0]["prompt"] == mine.load("all")[0].prompt


def test_every_call_asks_the_weights_as_they_are(
    task: Callable[..., LmEvalTask], lm_eval: LmEval, model: LlamaForCausalLM
) -> None:
    asked = [(task(), "all"), (task("tiny_write", "exact_match"), "all")]
    before = [lm_eval.score(one, split, range(N)) for one, split in asked]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        tuned(model, seed=9, size=0.3)
        between = [lm_eval.score(one, split, range(N)) for one, split in asked]
    finally:
        model.load_state_dict(state)
    assert all(b.answers != a.answers for a, b in zip(before, between, strict=True))
    assert [lm_eval.score(one, split, range(N)) for one, split in asked] == before


def test_an_untied_head_stays_untied(task: Callable[..., LmEvalTask]) -> None:
    from lm_eval.models.huggingface import HFLM

    tokenizer = word_tokenizer(WORDS, ["<pad>", "<unk>", "<end>"])
    model = LlamaForCausalLM(llama_config(tokenizer, tie_word_embeddings=True)).eval()
    head = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    model.lm_head.weight = head
    values = head.detach().clone()
    LmEval(model, tokenizer).score(task(), "all", range(4))
    assert model.lm_head.weight.data_ptr() == head.data_ptr()
    assert torch.equal(model.lm_head.weight, values)
    assert "tie_weights" not in vars(model)
    HFLM(pretrained=model, tokenizer=tokenizer)  # the trap is there
    assert model.lm_head.weight.data_ptr() != head.data_ptr()


def generators() -> tuple[object, object, object]:
    """The states of the global ones."""
    legacy = np.random.get_state()[1].tolist()  # noqa: NPY002
    return random.getstate(), legacy, torch.get_rng_state().tolist()


def test_generators_and_mode_are_left_as_they_were(
    task: Callable[..., LmEvalTask], family: Family
) -> None:
    model = LlamaForCausalLM.from_pretrained(family.donor, dtype=torch.float32)
    model.model.layers[1].train()
    dtypes = {parameter.dtype for parameter in model.parameters()}
    random.seed(5)
    torch.manual_seed(5)
    before = generators()
    lm_eval = LmEval(model, AutoTokenizer.from_pretrained(family.donor))
    lm_eval.score(task(num_fewshot=2), "all", range(N))
    lm_eval.score(task("tiny_write", "exact_match"), "all", range(4))
    assert generators() == before
    assert model.model.layers[1].training
    assert not model.model.layers[0].training
    assert {parameter.dtype for parameter in model.parameters()} == dtypes
    assert not model._forward_hooks


def test_a_row_is_asked_the_same_whatever_else_is(
    task: Callable[..., LmEvalTask], lm_eval: LmEval
) -> None:
    mine = task(num_fewshot=2)
    whole = lm_eval.score(mine, "all", range(N))
    part = lm_eval.score(mine, "all", [17, 3, 8])
    assert part.answers == tuple(whole.answers[i] for i in (17, 3, 8))
    assert part.per_example == tuple(whole.per_example[i] for i in (17, 3, 8))
    prompts = [example.prompt for example in mine.load("all")]
    assert prompts == [e.prompt for e in task(num_fewshot=2).load("all")]
    assert prompts[0].count("\n\n") == 2
    places = mine.documents("holdout")
    held = lm_eval.score(mine, "holdout", range(len(places)))
    assert held.per_example == tuple(whole.per_example[i] for i in places)


def test_logits_that_are_not_numbers_are_an_error(
    task: Callable[..., LmEvalTask], family: Family
) -> None:
    broken = LlamaForCausalLM.from_pretrained(family.donor, dtype=torch.float32).eval()
    with torch.no_grad():
        broken.lm_head.weight[7] = float("nan")
    lm_eval = LmEval(broken, AutoTokenizer.from_pretrained(family.donor))
    for one in (task(), task("tiny_write", "exact_match")):
        with pytest.raises(EngineError, match="not numbers"):
            lm_eval.score(one, "all", range(3))
