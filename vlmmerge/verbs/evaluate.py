"""vlmmerge evaluate: score a model folder, or answers that were saved, on tasks."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from vlmmerge.checkpoints import Checkpoint
from vlmmerge.checkpoints.appearing import appearing
from vlmmerge.checkpoints.strict_json import write_json
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
from vlmmerge.scoring.saved import read_samples, rescored, samples, write_samples
from vlmmerge.tasks import AnyTask, build_tasks

Results = dict[str, dict[str, Any]]


def ignore(line: str) -> None:
    """Notes that nobody reads."""


def run(node: DictConfig) -> float:
    """Score, write results.json and samples.jsonl. Returns the mean of the tasks' means."""
    output = output_of(node)
    settings = plain(node)
    if bool(settings["model"]) == bool(settings["samples"]):
        raise ConfigError(
            "model: give a model, as model=runs/mine/model, or answers that were saved, as"
            " samples=runs/scores/samples.jsonl"
        )
    tasks = build_tasks(settings.get("tasks"))
    evaluation: Evaluation | Rescoring
    if settings["samples"]:
        check_judges(tasks.values())
        evaluation = Rescoring(Path(str(settings["samples"])), tasks, settings["split"])
    else:
        chosen = (settings[key] for key in ("split", "limit", "seed", "device"))
        evaluation = prepare(settings["model"], tasks, *chosen)
    with appearing(output) as folder, recorded(node, folder, "evaluate"):
        results = evaluation.run(folder, print)
    print_scores(results, settings["split"])
    return float(np.mean([score["mean"] for score in results.values()]))


def evaluate(
    model: str | Path | Mapping[str, Any],
    tasks: str | Mapping[str, AnyTask],
    split: str = "holdout",
    limit: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    output: str | Path | None = None,
) -> Results:
    """Score a model on `tasks` (or a shipped set of them, by name).

    With `output` also writes results.json and samples.jsonl there.

    Returns task -> metric, mean, stderr, low, high (95 %, by bootstrap), n, rates of empty,
    unparsable and wrong-language answers, the means of all the task's metrics, and the rows that
    were left out.
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
    tasks: Mapping[str, AnyTask],
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
    tasks: Mapping[str, AnyTask]
    split: str
    rows: Rows
    device: str

    def run(self, folder: Path | None, say: Callable[[str], None] = ignore) -> Results:
        """Score; write results.json and samples.jsonl into a folder that is there.

        `say` hears what of the model is not as it might be: what cannot be shared, less memory.
        """
        runner = Runner(self.checkpoint.fetched(), self.device)
        scores = Scorer(runner, self.tasks).score(self.split, self.rows)
        for note in runner.notes:
            say(f"note: {note}")
        return written(scores, self.tasks, self.split, self.rows, folder)


@dataclass(frozen=True)
class Rescoring:
    """Answers of an earlier evaluation, to be read and judged as tasks say now."""

    saved: Path
    tasks: Mapping[str, AnyTask]
    split: str

    def run(self, folder: Path | None, say: Callable[[str], None] = ignore) -> Results:
        """Score without a model, which leaves nothing to say; write what an evaluation does."""
        rows, scores = rescored(read_samples(self.saved), self.tasks, self.split)
        return written(scores, self.tasks, self.split, rows, folder)


def written(
    scores: Mapping[str, TaskScore],
    tasks: Mapping[str, AnyTask],
    split: str,
    rows: Rows,
    folder: Path | None,
) -> Results:
    """The results, also as results.json and samples.jsonl where there is a folder."""
    results = summarise(scores, tasks, split, rows)
    if folder is not None:
        write_json(folder / "results.json", results)
        records = (samples(tasks[name], split, rows[name], scores[name]) for name in scores)
        write_samples(folder / "samples.jsonl", chain.from_iterable(records))
    return results


def summarise(
    scores: Mapping[str, TaskScore], tasks: Mapping[str, AnyTask], split: str, rows: Rows
) -> Results:
    """Means with intervals, the rates of odd answers, and rows that were left out, by task."""
    units = {name: [tasks[name].load(split)[i].unit for i in rows[name]] for name in scores}
    bootstrap = Bootstrap(units)
    return {
        name: {
            "metric": score.metric,
            **score.summary(),
            **asdict(interval(score.mean, bootstrap.means(name, score.per_example))),
            "fingerprint": tasks[name].fingerprint,
            "skipped": [asdict(row) for row in tasks[name].skipped(split)],
        }
        for name, score in scores.items()
    }
