"""vlmmerge evaluate: score a model folder on tasks."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from vlmmerge.checkpoints import Checkpoint
from vlmmerge.checkpoints.appearing import appearing
from vlmmerge.config import load_option, output_of, plain
from vlmmerge.errors import ConfigError
from vlmmerge.reporting.log import recorded
from vlmmerge.reporting.terminal import print_scores
from vlmmerge.scoring import (
    Bootstrap,
    Rows,
    Runner,
    Scorer,
    TaskScore,
    check_device,
    check_judges,
    draw_rows,
    interval,
)
from vlmmerge.tasks import Task, build_tasks

Results = dict[str, dict[str, Any]]


def run(node: DictConfig) -> float:
    """Score, write results.json and samples.jsonl. Returns the mean of the tasks' means."""
    output = output_of(node)
    settings = plain(node)
    if not settings["model"]:
        raise ConfigError("model: a model is needed, as model=runs/mine/model")
    evaluation = prepare(
        settings["model"],
        build_tasks(settings.get("tasks")),
        settings["split"],
        settings["limit"],
        settings["seed"],
        settings["device"],
    )
    with appearing(output) as folder, recorded(node, folder, "evaluate"):
        results = evaluation.run(folder)
    print_scores(results, settings["split"])
    return float(np.mean([score["mean"] for score in results.values()]))


def evaluate(
    model: str | Path | Mapping[str, Any],
    tasks: str | Mapping[str, Task],
    split: str = "holdout",
    limit: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    output: str | Path | None = None,
) -> Results:
    """Score a model on `tasks` (or a shipped set of them, by name).

    With `output` also writes results.json and samples.jsonl there.

    Returns task -> metric, mean, stderr, low, high (95 %, by bootstrap), n, rates of empty,
    unparsable and wrong-language answers, and the means of all the task's metrics.
    """
    if isinstance(tasks, str):
        tasks = build_tasks(plain(load_option("tasks", tasks)))
    evaluation = prepare(model, tasks, split, limit, seed, device)
    if output is None:
        return evaluation.run(None)
    with appearing(Path(output)) as folder:
        return evaluation.run(folder)


def prepare(
    model: str | Path | Mapping[str, Any],
    tasks: Mapping[str, Task],
    split: str,
    limit: int | None,
    seed: int,
    device: str,
) -> "Evaluation":
    """Check all that can be wrong before any weight is loaded."""
    if limit is not None and (type(limit) is not int or limit < 1):
        raise ConfigError(f"limit: {limit!r} is not a whole number from 1 up")
    check_device(device, "device")
    check_judges(tasks.values())
    checkpoint = Checkpoint.open(model)
    sizes = {name: len(task.load(split)) for name, task in tasks.items()}
    return Evaluation(checkpoint, tasks, split, draw_rows(sizes, limit, seed), device)


@dataclass(frozen=True)
class Evaluation:
    """A model, and the rows of tasks to score it on."""

    checkpoint: Checkpoint
    tasks: Mapping[str, Task]
    split: str
    rows: Rows
    device: str

    def run(self, folder: Path | None) -> Results:
        """Score; write results.json and samples.jsonl into a folder that is there."""
        scores = Scorer(Runner(self.checkpoint.fetched(), self.device), self.tasks).score(
            self.split, self.rows
        )
        results = summarise(scores, self.tasks, self.split, self.rows)
        if folder is not None:
            write_json(folder / "results.json", results)
            with (folder / "samples.jsonl").open("w", encoding="utf-8") as file:
                for name, score in scores.items():
                    for sample in samples(self.tasks[name], self.split, self.rows[name], score):
                        file.write(json.dumps(sample, ensure_ascii=False) + "\n")
        return results


def summarise(
    scores: Mapping[str, TaskScore], tasks: Mapping[str, Task], split: str, rows: Rows
) -> Results:
    """Means with intervals and the rates of odd answers, by task."""
    units = {name: [tasks[name].load(split)[i].unit for i in rows[name]] for name in scores}
    bootstrap = Bootstrap(units)
    return {
        name: {
            "metric": score.metric,
            **score.summary(),
            **asdict(interval(score.mean, bootstrap.means(name, score.per_example))),
            "fingerprint": tasks[name].fingerprint,
        }
        for name, score in scores.items()
    }


def samples(task: Task, split: str, rows: Any, score: TaskScore) -> list[dict[str, Any]]:
    """One record a row: what was asked, what came back, and its score."""
    examples = task.load(split)
    return [
        {
            "task": task.name,
            "id": examples[i].id,
            "unit": examples[i].unit,
            "prompt": examples[i].prompt,
            "options": list(examples[i].options),
            "references": list(examples[i].references),
            "prediction": answer,
            "score": value,
        }
        for i, answer, value in zip(rows, score.answers, score.per_example, strict=True)
    ]


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
