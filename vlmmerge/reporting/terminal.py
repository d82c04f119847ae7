"""What a search shows on the terminal: progress while it runs, the table of systems at its end."""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from vlmmerge.reporting.log import LOG
from vlmmerge.reporting.results import verdict
from vlmmerge.search import Row
from vlmmerge.search.records import BASELINE, CANDIDATE, FINAL, REPORT

_PHASES = {
    BASELINE: "baselines",
    CANDIDATE: "searching",
    FINAL: "choosing",
    REPORT: "holdout",
}

# Plain lines come so many candidates apart.
_EVERY = 10


class Progress:
    """Told every journal row: a live bar on a terminal, plain lines elsewhere."""

    def __init__(self, candidates: int) -> None:
        self._total = candidates
        self._seen = 0
        self._best: float | None = None
        self._phase = ""
        self._start = time.monotonic()
        self._live = sys.stdout.isatty()
        self._bar = Bar(
            TextColumn("{task.description:>9}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("best {task.fields[best]}"),
            TimeRemainingColumn(),
            disable=not self._live,
        )
        self._task = self._bar.add_task("loading", total=candidates, best="-")

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, row: Row, fresh: bool) -> None:
        phase = _PHASES[row["phase"]]
        if row["phase"] in (BASELINE, CANDIDATE):
            self._seen += 1
            if row["objective"] is not None:
                self._best = max(
                    row["objective"], row["objective"] if self._best is None else self._best
                )
        best = "-" if self._best is None else f"{self._best:+.3f}"
        self._bar.update(self._task, description=phase, completed=self._seen, best=best)
        if fresh and (line := self._line(row, phase, best)):
            self.say(line)
        self._phase = phase

    def say(self, line: str) -> None:
        """Log a line, and print it where there is no live bar."""
        LOG.info(line)
        if not self._live:
            print(line, flush=True)

    def _line(self, row: Row, phase: str, best: str) -> str:
        if row["status"] != "ok":
            return f"{phase} {row['label']}: failed, {row['reason']}"
        if phase != self._phase or (row["phase"] == CANDIDATE and self._seen % _EVERY == 0):
            seconds = time.monotonic() - self._start
            return f"{seconds:6.0f} s  {phase}  {self._seen}/{self._total}  best {best}"
        return ""


def print_results(results: Mapping[str, Any], output: Path) -> None:
    """The holdout table: a line for each task, the objective, and the gain over every system."""
    console = Console(highlight=False)
    held, gain = results["objective"]["holdout"], results["objective"]["gain"]
    table = _table("holdout, with 95 % intervals", "task", *held, names=1)
    for task, scores in results["holdout"].items():
        cells = [_cell(scores.get(system)) for system in held]
        table.add_row(f"{escape(task)}\n[dim]{escape(results['tasks'][task]['metric'])}", *cells)
    table.add_section()
    table.add_row("objective", *(_cell(value) for value in held.values()))
    gains = [_cell(gain[system], "diff", "+") if system in gain else "" for system in held]
    table.add_row("gain of best", *gains)
    console.print(table)
    better, sentence = verdict(results)
    console.print(sentence, style="green" if better else "yellow", markup=False)
    for path, what in (("model", "the merged model"), ("report.html", "the evidence")):
        console.print(f"{output / path}: {what}", markup=False, soft_wrap=True)


def _cell(value: Mapping[str, float] | None, mean: str = "mean", sign: str = "") -> str:
    if value is None:
        return "failed"
    low, high = (f"{value[end]:.2f}" for end in ("low", "high"))
    return f"{value[mean]:{sign}.3f}\n[dim]{low} to {high}"


def _table(title: str, *columns: str, names: int) -> Table:
    """A table whose first `names` columns are names and the others figures."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for i, name in enumerate(columns):
        table.add_column(name, justify="left" if i < names else "right", no_wrap=i < names)
    return table


def print_sweep(rows: Sequence[Mapping[str, Any]]) -> None:
    """The runs of a sweep: what they differ in, the objective, and the gain over every system."""
    systems = list(dict.fromkeys(system for row in rows for system in row["gain"]))
    columns = ("run", "settings", "objective", *(f"over {system}" for system in systems))
    table = _table("sweep: best merges on the holdout", *columns, names=2)
    for row in rows:
        gain = row["gain"]
        settings = "\n".join(f"{key}={value}" for key, value in row["settings"].items())
        table.add_row(
            row["run"],
            escape(settings),
            _cell(row["objective"]),
            *(_cell(gain[s], "diff", "+") if s in gain else "" for s in systems),
        )
    Console(highlight=False).print(table)


def print_scores(results: Mapping[str, Any], split: str) -> None:
    """An evaluation: a line for each task."""
    columns = ("task", "metric", "mean", "95 % interval", "n", "empty", "wrong language")
    table = _table(split, *columns, names=2)
    for task, score in results.items():
        table.add_row(
            escape(task),
            escape(score["metric"]),
            f"{score['mean']:.3f}",
            f"{score['low']:.3f} to {score['high']:.3f}",
            str(score["n"]),
            f"{100 * score['empty']:.0f} %",
            f"{100 * score['wrong_language']:.0f} %",
        )
    Console(highlight=False).print(table)


def print_comparison(reference: str, differences: Mapping[str, Mapping[str, Any]]) -> None:
    """Differences from a reference run: a line for each run and task."""
    columns = ("run", "task", "difference", "95 % interval", "n")
    table = _table(f"minus {reference}", *columns, names=2)
    for run, by in differences.items():
        for task, found in by.items():
            span = f"{found['low']:+.3f} to {found['high']:+.3f}"
            table.add_row(escape(run), escape(task), f"{found['diff']:+.3f}", span, str(found["n"]))
    Console(highlight=False).print(table)


def print_inspection(found: Mapping[str, Any]) -> None:
    """A model's parts, what a merge would do, and what to mind."""
    console = Console(highlight=False)
    layers = f"{found['layers']} layers, {'tied' if found['tied'] else 'untied'} embeddings"
    title = f"{found['model']}: {found['class']}, {layers}"
    table = _table(title, "part", "tensors", "parameters", "MB", names=1)
    for part, count in found["parts"].items():
        table.add_row(
            part, str(count["tensors"]), f"{count['parameters']:,}", f"{count['bytes'] / 1e6:.2f}"
        )
    console.print(table)
    if found["sources"]:
        words = found["vocabulary"]
        table = _table("", "source", "tensors that meet", "rows that meet", "folder", names=1)
        for name, source in found["sources"].items():
            rows = f"{words['met'][name]:,} of {words['rows']:,}"
            table.add_row(escape(name), str(source["meets"]), rows, escape(source["path"]))
        console.print(table)
    plan = found["plan"]
    console.print(
        f"a merge: {plan['merged']} tensors merged, {plan['frozen']} frozen,"
        f" {plan['copied']} copied; reads {_bytes(plan['read_bytes'])},"
        f" writes {_bytes(plan['write_bytes'])} ({_bytes(plan['disk_free_bytes'])} free)"
    )
    memory = plan["memory_bytes"]
    console.print(
        f"memory for tensors: {_bytes(memory['merge'])} to merge, {_bytes(memory['search'])} to"
        " search"
    )
    if plan["download_bytes"]:
        console.print(f"to download first: {_bytes(plan['download_bytes'])}")
    if plan["disk_free_bytes"] < plan["write_bytes"] + plan["download_bytes"]:
        console.print("warning: the disk is too full for this merge")
    for kind in ("warning", "note"):
        for line in found[f"{kind}s"]:
            console.print(f"{kind}: {line}", markup=False)


def _bytes(count: int) -> str:
    """Bytes as people read them: 3.20 GB."""
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.3g} {unit}"
