"""vlmmerge search: find the coefficients of a merge by their scores on tasks."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vlmmerge.anatomy import Alignment
from vlmmerge.config import build, complete, flag, output_of, plain
from vlmmerge.engines import Inline, Worker
from vlmmerge.errors import ConfigError
from vlmmerge.merging import aligned
from vlmmerge.recipes import MergeSpace, Recipe
from vlmmerge.reporting.export import export
from vlmmerge.reporting.log import recorded
from vlmmerge.reporting.progress import Progress
from vlmmerge.reporting.results import read_results
from vlmmerge.reporting.terminal import print_results
from vlmmerge.scoring import check_judges
from vlmmerge.search import Budget, Journal, Search, Splits
from vlmmerge.tasks import AnyTask, build_tasks, check_overlap


def run(node: DictConfig) -> float:
    """Run or resume a search and show it. Returns the best merge's objective on the holdout."""
    results = conduct(node)
    print_results(results, output_of(node))
    return float(results["objective"]["holdout"]["best"]["mean"])


def conduct(node: DictConfig) -> dict[str, Any]:
    """Run a search, go on with it, or find it finished. Returns the content of results.json."""
    output = output_of(node)
    journal = open_journal(output, resume=flag(plain(node), "resume"))
    if journal.finished:
        return read_results(output)

    prepared = prepare(node).fetched()
    header = header_of(node, prepared)
    if journal.rows:
        journal.check_header(header)
    output.mkdir(parents=True, exist_ok=True)
    with recorded(node, output, "search"):
        if not journal.rows:
            journal.append(header)
        with (
            prepared.engine.open(prepared.make_worker) as score,
            Progress(prepared.search.budget.candidates) as progress,
        ):
            for line in prepared.alignment.told:
                progress.say(line)
            best = prepared.search.run(journal, score, progress)
        export(best, journal, prepared.tasks, output)
    return read_results(output)


@dataclass(frozen=True)
class Prepared:
    """A search that has passed every check, and has loaded no weight yet."""

    search: Search
    tasks: Mapping[str, AnyTask]
    alignment: Alignment
    engine: Inline

    def fetched(self) -> "Prepared":
        """The same search with all weights on disk, downloaded where they are not."""
        return replace(self, alignment=self.alignment.fetched())

    def make_worker(self, device: str, threads: int | None) -> Worker:
        template = self.search.space.template
        return Worker(self.alignment, template, self.tasks, device, threads)


def prepare(node: DictConfig) -> Prepared:
    """Build all of a search from its config; what can be wrong is found here, cheapest first."""
    settings = plain(node)
    template = template_of(settings)
    budget = Budget(**settings["budget"])
    splits = Splits(**{**settings["splits"], "extra": tuple(settings["splits"]["extra"])})
    tasks = build_tasks(settings.get("tasks"))
    objective = build(settings["objective"], "objective")
    objective.searched(tasks)
    engine = build(settings["engine"], "engine")

    if template.vocabulary == "union":
        raise ConfigError(
            "vocabulary: union is for merge: write one with it, and search with that as the"
            " recipient"
        )
    alignment = aligned(template, flag(settings, "strict"))
    template.check_layers(alignment.layers)
    space = MergeSpace.build(build(settings["space"], "space"), template, alignment.cells)
    strategy = build(settings["strategy"], "strategy", start=space.start, seed=settings["seed"])

    check_judges(tasks.values())
    check_overlap(tasks.values(), splits.search, splits.holdout)
    search = Search(
        space=space,
        objective=objective,
        strategy=strategy,
        sizes=sizes_of(tasks, splits),
        higher_is_better={name: task.higher_is_better for name, task in tasks.items()},
        budget=budget,
        splits=splits,
        seed=settings["seed"],
    )
    return Prepared(search, tasks, alignment, engine)


def search(config: Mapping[str, Any]) -> dict[str, Any]:
    """Search from Python: `search({"experiment": "quickstart", "output": "runs/mine"})`.

    `config` has the keys of conf/search.yaml; groups are named or given as mappings. Returns the
    content of results.json. Raises `VlmMergeError`.
    """
    return conduct(complete("search", config))


def open_journal(output: Path, resume: bool) -> Journal:
    """The journal of a new run, or of the one to go on with.

    Raises `ConfigError` where the folder holds something else.
    """
    path = output / "journal.jsonl"
    if resume and path.exists():
        return Journal.resume(path)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        hint = "resume=true goes on with it" if path.exists() else "choose another output"
        raise ConfigError(f"{output}: exists already; {hint}")
    return Journal.create(path)


def template_of(settings: Mapping[str, Any]) -> Recipe:
    """The recipe that the space varies: every donor at weight 1 where nothing else is said."""
    fields = ("models", "coefficients", "shared", "embeddings", "vocabulary", "drop_frozen")
    node = {key: settings[key] for key in (*fields, "dtype", "seed")}
    donors = (settings["models"] or {}).get("donors") or {}
    if not isinstance(donors, Mapping):
        donors = {}
    given = settings["coefficients"] or {}
    node["coefficients"] = {**{donor: {} for donor in donors}, **given}
    return Recipe.from_config(
        {**node, "method": build(settings["method"], "method").name}, "config"
    )


def sizes_of(tasks: Mapping[str, AnyTask], splits: Splits) -> dict[str, dict[str, int]]:
    """Split -> task -> rows. Extra splits are of the tasks that have them."""
    sizes = {
        split: {name: len(task.load(split)) for name, task in tasks.items()}
        for split in (splits.search, splits.holdout)
    }
    for split in splits.extra:
        having = {name: task for name, task in tasks.items() if split in task.splits()}
        if not having:
            raise ConfigError(f"splits.extra: no task has a split {split!r}")
        sizes[split] = {name: len(task.load(split)) for name, task in having.items()}
    return sizes


def header_of(node: DictConfig, prepared: Prepared) -> dict[str, Any]:
    """The journal's first row: all that the search is, and nothing of where it runs."""
    config = OmegaConf.to_container(node, resolve=False)
    assert isinstance(config, dict)
    search, tasks, alignment = prepared.search, prepared.tasks, prepared.alignment
    models = alignment.models
    return {
        "type": "search",
        "version": 1,
        "config": {k: v for k, v in config.items() if k not in ("output", "resume", "engine")},
        "models": {
            name: {"name": checkpoint.name, "fingerprint": checkpoint.fingerprint}
            for name, checkpoint in {"recipient": models.recipient, **models.sources}.items()
        },
        "donors": list(models.donors),
        "method": search.space.template.method,
        "dimensions": [dimension.label for dimension in search.space.dimensions],
        "told": [*alignment.told, *left_out(tasks, search.sizes)],
        "cells": [str(cell) for cell in alignment.cells],
        "objective": plain(node.objective),
        "splits": {"search": search.splits.search, "holdout": search.splits.holdout},
        "tasks": {
            name: {
                "metric": task.metric,
                "higher_is_better": task.higher_is_better,
                "fingerprint": task.fingerprint,
            }
            for name, task in tasks.items()
        },
        "units": {
            split: {name: units_of(tasks[name], split) for name in sizes}
            for split, sizes in search.sizes.items()
        },
    }


def left_out(tasks: Mapping[str, AnyTask], sizes: Mapping[str, Mapping[str, int]]) -> list[str]:
    """A line for every task some of whose rows cannot be used (`on_bad_row: skip`)."""
    found = {(split, name): tasks[name].skipped(split) for split in sizes for name in sizes[split]}
    return [
        f"warning: tasks.{name}: {len(rows)} rows of {split} left out, as {rows[0].why}"
        for (split, name), rows in found.items()
        if rows
    ]


def units_of(task: AnyTask, split: str) -> list[str]:
    """The unit of every row, by which a bootstrap draws."""
    return [example.unit for example in task.load(split)]
