"""The end of a search: recipe, model folder, results, page; each written whole."""

import json
from collections.abc import Mapping
from pathlib import Path

from vlmmerge.merging import verify_frozen, write_merge
from vlmmerge.recipes import Recipe
from vlmmerge.reporting.card import model_card
from vlmmerge.reporting.gallery import gallery_row
from vlmmerge.reporting.page import page
from vlmmerge.reporting.results import report_splits, results_of, verdict
from vlmmerge.search import Journal
from vlmmerge.tasks import AnyTask


def export(best: Recipe, journal: Journal, tasks: Mapping[str, AnyTask], output: Path) -> None:
    """Write what a search hands back. What is there already, from before a kill, is kept."""
    if journal.find("gallery") is None:
        journal.append(gallery_row(journal, tasks, report_splits(journal)))
    best.save(output / "recipe.yaml")
    if not (output / "model").exists():
        results = results_of(journal)
        said = verdict(results)[1]
        write_merge(
            best,
            output / "model",
            lambda alignment: model_card(best, alignment.told, results, said),
        )
    if journal.find("export") is None:
        frozen = verify_frozen(best, output / "model")
        journal.append({"type": "export", "frozen": frozen})
    results = results_of(journal)
    write_text(output / "results.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    write_text(output / "report.html", page([journal]))
    journal.append({"type": "end"})


def write_text(path: Path, text: str) -> None:
    """Write a file whole: beside, then renamed."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
