"""Answers on disk: what was asked, what came back and its scores; judged again without a model."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmmerge.config import one_line
from vlmmerge.errors import ConfigError
from vlmmerge.scoring.scorer import Rows, TaskScore, judge_of, judged, perplexity
from vlmmerge.scoring.statistics import or_none
from vlmmerge.tasks import AnyTask, LmEvalTask

Sample = dict[str, Any]


def samples(task: AnyTask, split: str, rows: Sequence[int], score: TaskScore) -> list[Sample]:
    """One record a row: what was asked, what came back, as written and as read, and its scores."""
    examples = task.load(split)
    by_metric = dict(score.scores) or {score.metric: score.per_example}
    return [
        {
            "task": task.name,
            "split": split,
            "id": examples[row].id,
            "unit": examples[row].unit,
            "prompt": examples[row].prompt,
            "options": list(examples[row].options),
            "references": list(examples[row].references),
            "raw": (score.raw or score.answers)[k],
            "prediction": score.answers[k],
            "score": or_none(score.per_example[k]),
            "scores": {name: or_none(values[k]) for name, values in by_metric.items()},
            **({"judge": score.words[k]} if score.words else {}),
        }
        for k, row in enumerate(rows)
    ]


def write_samples(path: Path, records: Iterable[Sample]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def read_samples(path: Path) -> dict[str, list[Sample]]:
    """Saved answers by task. Raises `ConfigError` where the file is none of ours."""
    path = path / "samples.jsonl" if path.is_dir() else path
    found: dict[str, list[Sample]] = {}
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            sample = json.loads(line)
            if not all(isinstance(sample.get(key), str) for key in ("task", "id", "prediction")):
                raise ConfigError(f"samples: line {number} of {path} is no answer of evaluate")
            found.setdefault(sample["task"], []).append(sample)
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"samples: {path} cannot be read ({one_line(error)})") from error
    return found


def rescored(
    saved: Mapping[str, Sequence[Sample]], tasks: Mapping[str, AnyTask], split: str
) -> tuple[Rows, dict[str, TaskScore]]:
    """Saved answers read and judged as `tasks` say now.

    Raises `ConfigError` where none are of these tasks, or one is not of the row that it says.
    """
    shared = [name for name in tasks if name in saved]
    if not shared:
        raise ConfigError(
            f"samples: has answers to {', '.join(saved) or 'nothing'}, not to {', '.join(tasks)}"
        )
    rows, scores = {}, {}
    for name in shared:
        rows[name] = [row_of(tasks[name], split, sample) for sample in saved[name]]
        scores[name] = _score(tasks[name], split, rows[name], saved[name])
    return rows, scores


def row_of(task: AnyTask, split: str, sample: Sample) -> int:
    """The row of a split that an answer was given to."""
    ids = {example.id: i for i, example in enumerate(task.load(split))}
    where = f"samples: {task.name} row {sample['id']}"
    if sample.get("split", split) != split:
        raise ConfigError(f"{where} is of the split {sample['split']}; split={sample['split']}")
    if sample["id"] not in ids:
        raise ConfigError(f"{where}: the task has no such row in {split}")
    row = ids[sample["id"]]
    if list(task.load(split)[row].references) != sample.get("references"):
        raise ConfigError(f"{where}: has other references than the task's row of that id")
    return row


def _score(task: AnyTask, split: str, rows: Sequence[int], saved: Sequence[Sample]) -> TaskScore:
    if isinstance(task, LmEvalTask):
        raise ConfigError(f"samples: {task.name} is lm-eval's, which scores with a model alone")
    raw = [str(sample.get("raw", sample["prediction"])) for sample in saved]
    if task.kind == "perplexity":
        try:
            found = [json.loads(text) for text in raw]
            return perplexity(task, [(f["log_likelihood"], f["tokens"], f["bytes"]) for f in found])
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"samples: {task.name} holds no log-likelihoods") from error
    examples = task.load(split)
    return judged(task, judge_of(task, split), [examples[row] for row in rows], raw)
