"""vlmmerge compare: paired bootstrap between evaluations, or between best merges of searches."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from vlmmerge.checkpoints.appearing import appearing
from vlmmerge.config import output_of, plain, read_yaml
from vlmmerge.errors import ConfigError
from vlmmerge.reporting.log import recorded
from vlmmerge.reporting.results import BEST, reported_rows
from vlmmerge.reporting.terminal import print_comparison
from vlmmerge.scoring import Bootstrap, interval
from vlmmerge.search import Journal


@dataclass(frozen=True)
class Scored:
    """A run's per-row scores: task -> row id -> (unit, score), and what the tasks were."""

    folder: str
    split: str | None
    fingerprints: Mapping[str, str]
    scores: Mapping[str, Mapping[str, tuple[str, float]]]


def run(node: DictConfig) -> None:
    """Compare every run with the first, task by task, on the rows that they share."""
    output = output_of(node)
    settings = plain(node)
    folders = settings["runs"]
    if not isinstance(folders, list) or len(folders) < 2:
        raise ConfigError("runs: give two folders or more, as 'runs=[runs/a,runs/b]'")
    first, *others = [read(Path(folder)) for folder in folders]
    results = {other.folder: compare(first, other, settings["seed"]) for other in others}
    with appearing(output) as folder, recorded(node, folder, "compare"):
        content = {"reference": first.folder, "differences": results}
        (folder / "compare.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print_comparison(first.folder, results)


def read(folder: Path) -> Scored:
    """The scores of an evaluation (samples.jsonl), or of a search's best merge on the holdout."""
    if (folder / "samples.jsonl").exists():
        return read_evaluation(folder)
    journal = Journal.read(folder / "journal.jsonl")
    if not journal.finished:
        raise ConfigError(f"{folder}: the search is not finished; resume=true goes on with it")
    split = journal.header["splits"]["holdout"]
    units = journal.header["units"][split]
    tasks = reported_rows(journal, split)[BEST]["tasks"]
    scores = {
        task: {
            str(i): (unit, value)
            for i, (unit, value) in enumerate(zip(units[task], row["per_example"], strict=True))
        }
        for task, row in tasks.items()
    }
    fingerprints = {task: journal.header["tasks"][task]["fingerprint"] for task in tasks}
    return Scored(str(folder), split, fingerprints, scores)


def read_evaluation(folder: Path) -> Scored:
    """The scores that `vlmmerge evaluate` has written."""
    try:
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        lines = (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()
        samples = [json.loads(line) for line in lines]
        scores: dict[str, dict[str, tuple[str, float]]] = {}
        for sample in samples:
            scores.setdefault(sample["task"], {})[sample["id"]] = (sample["unit"], sample["score"])
        fingerprints = {task: results[task]["fingerprint"] for task in scores}
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{folder}: holds no evaluation that can be read ({error!r})") from error
    return Scored(str(folder), split_of(folder), fingerprints, scores)


def split_of(folder: Path) -> str | None:
    """The split that an evaluation was of; None where its config is not there any more."""
    config = folder / "config.yaml"
    return str(read_yaml(config)["split"]) if config.exists() else None


def compare(first: Scored, other: Scored, seed: int) -> dict[str, dict[str, Any]]:
    """Task -> mean difference (other minus first) with its interval, and the rows it is over.

    Raises `ConfigError` where the runs are of different splits, share no task, or tasks of one
    name differ.
    """
    if None not in (first.split, other.split) and first.split != other.split:
        raise ConfigError(
            f"{first.folder} was scored on {first.split} and {other.folder} on {other.split}"
        )
    shared = [task for task in first.scores if task in other.scores]
    if not shared:
        raise ConfigError(f"{first.folder} and {other.folder} have no task in common")
    differences = {}
    for task in shared:
        if first.fingerprints[task] != other.fingerprints[task]:
            raise ConfigError(f"{task}: is not the same task in {first.folder} and {other.folder}")
        ids = [i for i in first.scores[task] if i in other.scores[task]]
        # A row that a judge's verdict could not be read of is compared with nothing.
        scored = [(first.scores[task][i][1], other.scores[task][i][1]) for i in ids]
        ids = [i for i, pair in zip(ids, scored, strict=True) if None not in pair]
        if not ids:
            raise ConfigError(f"{task}: {first.folder} and {other.folder} share no row")
        units = [first.scores[task][i][0] for i in ids]
        gaps = [other.scores[task][i][1] - first.scores[task][i][1] for i in ids]
        found = interval(sum(gaps) / len(gaps), Bootstrap({task: units}, seed).means(task, gaps))
        named = asdict(found)
        differences[task] = {"diff": named.pop("mean"), **named, "n": len(ids)}
    return differences
