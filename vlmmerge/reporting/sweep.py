"""The end of a sweep of searches: one table, and DIR/sweep.json."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from vlmmerge.reporting.export import write_text
from vlmmerge.reporting.results import BEST, read_results
from vlmmerge.search import Journal


class SweepTable(Callback):
    """Hydra calls it when all jobs of a multirun are done."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        folder = Path(str(config.hydra.sweep.dir))
        rows = sweep_rows(folder)
        write_text(folder / "sweep.json", json.dumps(rows, indent=2, ensure_ascii=False) + "\n")
        Console(highlight=False).print(table(rows))


def sweep_rows(folder: Path) -> list[dict[str, Any]]:
    """One record a finished run, by number: what it was, and how it fared on the holdout."""
    runs = [run for run in folder.iterdir() if run.name.isdigit()]
    done = []
    for run in sorted(runs, key=lambda path: int(path.name)):
        if (run / "journal.jsonl").exists():
            journal = Journal.read(run / "journal.jsonl")
            if journal.finished:
                done.append((run, flatten(journal.header["config"])))
    differing = [
        key
        for key in dict.fromkeys(key for _, config in done for key in config)
        if len({json.dumps(config.get(key)) for _, config in done}) > 1
    ]
    return [_row(run, {key: config.get(key) for key in differing}) for run, config in done]


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


def flatten(node: Any, where: str = "") -> dict[str, Any]:
    """A nested config as dotted keys."""
    if not isinstance(node, Mapping):
        return {where: node}
    return {
        key: value
        for name, child in node.items()
        for key, value in flatten(child, f"{where}.{name}".strip(".")).items()
    }


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Runs as lines: the settings that differ, the objective, and the gain over every system."""
    keys = [key for key in (rows[0]["settings"] if rows else {}) if not _is_detail(key)]
    systems = list(rows[0]["gain"]) if rows else []
    systems = [s for s in systems if all(s in row["gain"] for row in rows)]
    shown = Table(title="holdout, with 95 % intervals", title_justify="left")
    for name in ("run", *(key.rpartition(".")[2] for key in keys)):
        shown.add_column(name)
    for name in ("objective", *(f"over {system}" for system in systems), "seconds"):
        shown.add_column(name, justify="right")
    for row in rows:
        gains = (row["gain"][system] for system in systems)
        shown.add_row(
            row["run"],
            *(str(row["settings"][key]) for key in keys),
            _interval(row["objective"]["mean"], row["objective"]),
            *(_interval(gain["diff"], gain) for gain in gains),
            str(row["seconds"]),
        )
    return shown


def _is_detail(key: str) -> bool:
    """Whether a setting goes with another that says it better (a group's own content)."""
    return key.startswith(("tasks.", "space.", "strategy.", "models.donors"))


def _interval(value: float, span: Mapping[str, float]) -> str:
    return f"{value:+.3f} [{span['low']:+.3f}, {span['high']:+.3f}]"
