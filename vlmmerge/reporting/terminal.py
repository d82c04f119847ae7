"""Tables on the terminal: systems of a search, scores, comparisons, what a model is made of."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vlmmerge.reporting.results import verdict


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


ODD = ("empty", "unparsable", "wrong_language")  # rates of answers


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
    columns = ("task", "metric", "mean", "95 % interval", "n", "odd answers")
    table = _table(split, *columns, names=2)
    for task, score in results.items():
        table.add_row(
            escape(task),
            escape(score["metric"]),
            f"{score['mean']:.3f}",
            f"{score['low']:.3f} to {score['high']:.3f}",
            str(score["n"]),
            ", ".join(f"{100 * score[k]:.0f} % {k.replace('_', ' ')}" for k in ODD if score[k])
            or "none",
        )
    console = Console(highlight=False)
    console.print(table)
    for task, score in results.items():
        if unread := score["metrics"].get("judge_unread"):
            console.print(
                f"{task}: {100 * unread:.0f} % of the judge's verdicts could not be read,"
                " and are in no mean",
                markup=False,
            )
        if skipped := score["skipped"]:
            console.print(
                f"{task}: {len(skipped)} rows left out; results.json says why", markup=False
            )


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
        columns = ("tensors that meet", "rows that meet", "tokens beyond", "folder")
        table = _table("", "source", *columns, names=1)
        for name, source in found["sources"].items():
            rows = f"{words['met'][name]:,} of {words['rows']:,}"
            beyond = f"{words['beyond'][name]:,}" if name in words["beyond"] else "-"
            table.add_row(escape(name), str(source["meets"]), rows, beyond, escape(source["path"]))
        console.print(table)
    plan = found["plan"]
    console.print(
        f"a merge: {plan['merged']} tensors merged, {plan['frozen']} frozen,"
        f" {plan['copied']} copied; reads {size_of(plan['read_bytes'])},"
        f" writes {size_of(plan['write_bytes'])} ({size_of(plan['disk_free_bytes'])} free)"
    )
    memory = plan["memory_bytes"]
    console.print(
        f"memory for tensors: up to {size_of(memory['merge'])} to merge,"
        f" {size_of(memory['search'])} to search"
    )
    if plan["download_bytes"]:
        console.print(f"to download first: {size_of(plan['download_bytes'])}")
    if plan["disk_free_bytes"] < plan["write_bytes"] + plan["download_bytes"]:
        console.print("warning: the disk is too full for this merge")
    for kind in ("warning", "note"):
        for line in found[f"{kind}s"]:
            console.print(f"{kind}: {line}", markup=False)


def size_of(count: int) -> str:
    """Bytes as people read them: 3.20 GB."""
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.3g} {unit}"
