"""The worker: a candidate in, scores or a reason out, and the next one whole."""

import pytest
import torch
from support import QUICKSTART

from vlmmerge.anatomy import align
from vlmmerge.config import load_option, plain
from vlmmerge.engines import Inline, Job, Worker
from vlmmerge.errors import ConfigError
from vlmmerge.recipes import Recipe
from vlmmerge.tasks import build_tasks

ROWS = {"ja_vqa": range(6), "ja_culture": range(6)}


def recipe(weight: float) -> Recipe:
    return Recipe.from_config(
        {
            "models": {
                "recipient": str(QUICKSTART / "vlm"),
                "base": str(QUICKSTART / "base"),
                "donors": {"ja": str(QUICKSTART / "ja")},
            },
            "method": "task_arithmetic",
            "coefficients": {"ja": {"weight": weight}},
        }
    )


def make(device: str, threads: int | None = 2) -> Worker:
    template = recipe(1.0)
    tasks = build_tasks(plain(load_option("tasks", "quickstart_ja")))
    return Worker(align(template.models.open()), template, tasks, device, threads)


def test_logits_that_are_not_numbers_are_a_failure_with_a_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker = make("cpu")
    good = worker.run(Job(recipe(0.7), "search", ROWS))
    assert good.failure is None
    assert good.scores["ja_vqa"].n == 6

    apply = worker._merge.apply

    def poisoned(one: Recipe) -> None:
        apply(one)
        with torch.no_grad():
            worker._scorer.runner.model.model.language_model.norm.weight[0] = float("nan")

    monkeypatch.setattr(worker._merge, "apply", poisoned)
    bad = worker.run(Job(recipe(0.9), "search", ROWS))
    assert bad.failure == "the model's logits are not numbers (NaN)"
    assert bad.scores == {}

    monkeypatch.undo()
    again = worker.run(Job(recipe(0.7), "search", ROWS))
    assert again.scores == good.scores


def test_the_engine_makes_its_worker_when_the_first_job_comes() -> None:
    made: list[str] = []

    def note(device: str, threads: int | None) -> Worker:
        made.append(f"{device} {threads}")
        return make(device, threads)

    with Inline(threads=1).open(note) as score:
        assert not made
        outcomes = list(score([Job(recipe(w), "search", ROWS) for w in (0.3, 1.0)]))
    assert made == ["cpu 1"]
    assert outcomes[0].scores != outcomes[1].scores


@pytest.mark.parametrize(
    ("options", "message"),
    [({"threads": 0}, "threads"), ({"threads": 1.5}, "threads"), ({"device": "tpu7"}, "device")],
)
def test_bad_settings_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=f"engine.{message}"):
        Inline(**options)
