"""The end of a sweep of searches: one table, and DIR/sweep.json."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from vlmmerge.reporting.export import write_text
from vlmmerge.reporting.results import BEST, read_results
from vlmmerge.reporting.terminal import print_sweep
from vlmmerge.search import Journal


class SweepTable(Callback):
    """Hydra tells it of every job of a multirun, and of the end."""

    def __init__(self) -> None:
        self._overrides: dict[str, dict[str, str]] = {}

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Note what the job was asked for."""
        if config.hydra.mode.name == "MULTIRUN":
            asked = (override.partition("=") for override in config.hydra.overrides.task)
            self._overrides[str(config.hydra.job.num)] = {
                key.lstrip("+"): value for key, _, value in asked
            }

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Write sweep.json, print the table."""
        folder = Path(str(config.hydra.sweep.dir))
        rows = sweep_rows(folder, self._overrides)
        write_text(folder / "sweep.json", json.dumps(rows, indent=2, ensure_ascii=False) + "\n")
        print_sweep(rows)


def sweep_rows(folder: Path, overrides: Mapping[str, Mapping[str, str]]) -> list[dict[str, Any]]:
    """One record a finished run, by number: the overrides that runs differ in, and its figures."""
    numbers = sorted((p.name for p in folder.iterdir() if p.name.isdigit()), key=int)
    done = [number for number in numbers if _finished(folder / number)]
    asked = [overrides.get(number, {}) for number in done]
    keys = dict.fromkeys(key for one in asked for key in one)
    differing = [key for key in keys if len({one.get(key) for one in asked}) > 1]
    return [
        _row(folder / number, {key: one.get(key) for key in differing})
        for number, one in zip(done, asked, strict=True)
    ]


def _finished(run: Path) -> bool:
    journal = run / "journal.jsonl"
    return journal.exists() and Journal.read(journal).finished


def _row(run: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    results = read_results(run)
    return {
        "run": run.name,
        "settings": dict(settings),
        "objective": results["objective"]["holdout"][BEST],
        "gain": results["objective"]["gain"],
        "candidates": results["cost"]["candidates"],
        "seconds": round(sum(results["cost"]["seconds"].values()), 1),
    }
