"""The page of one or more searches: self-contained HTML, a pure function of their journals."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader

from vlmmerge.reporting.plots import coefficient_plot, search_plot
from vlmmerge.reporting.results import UNIFORM, listed, reported_rows, results_of, verdict
from vlmmerge.search import Journal

_TEMPLATES = Path(__file__).parent / "templates"

# Metrics whose rows have no highest score; of the others a row of 1 is fully right.
_UNBOUNDED = ("cider", "judge")


def page(journals: Sequence[Journal]) -> str:
    """The HTML of finished searches, one after the other."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    runs = [_run(journal) for journal in journals]
    return environment.get_template("report.html").render(runs=runs, title=runs[0]["title"])


def _run(journal: Journal) -> dict[str, Any]:
    results = results_of(journal)
    header = journal.header
    better, sentence = verdict(results)
    names = {name: model["name"] for name, model in header["models"].items()}
    donors = listed([names[donor] for donor in header["donors"]])
    cost = results["cost"]
    return {
        "title": f"{names['recipient']} merged with {donors}",
        "lead": (
            f"{header['method']} over {len(header['dimensions'])} coefficients; the vision encoder"
            " and projector are the recipient's, bit for bit."
            if (results["frozen"] or {}).get("tensors")
            else f"{header['method']} over {len(header['dimensions'])} coefficients."
        ),
        "better": better,
        "verdict": sentence,
        "tables": _tables(results, header),
        "search_note": (
            f"Each candidate was scored on up to {header['config']['budget']['limit'] or 'all'}"
            " rows of every task of the objective, the same rows for all; the last few and the mean"
            " of the final distribution on the whole search split, and the best of those was taken"
            f" ({results['chosen']})."
        ),
        "search_plot": search_plot(journal),
        "recipe_note": (
            "Weights of each source by cell of the backbone; 1 is the source's own task vector as"
            " it is, 0 leaves it out."
        ),
        "coefficient_plot": coefficient_plot(results["recipe"], header["cells"]),
        "gallery": _gallery(journal),
        "facts": _facts(results, cost, header),
        "details": yaml.safe_dump(
            {"recipe": results["recipe"], "config": header["config"]},
            sort_keys=False,
            allow_unicode=True,
        ),
    }


def _tables(results: Mapping[str, Any], header: Mapping[str, Any]) -> list[dict[str, Any]]:
    systems = list(results["objective"]["search"])
    tables = [
        {
            "title": "Holdout",
            "note": (
                "Rows that the search has not read. Means with 95 % bootstrap intervals; rows about"
                " one picture are drawn together. The objective is "
                "0 for the recipient and 1 a task for what the best donor gains in its place."
            ),
            "systems": systems,
            "rows": [
                *_rows(results["holdout"], results["tasks"], systems),
                _sum("objective", results["objective"]["holdout"], systems),
                _sum("best minus it", _gains(results), systems),
            ],
        }
    ]
    further = [split for split in header["units"] if split not in header["splits"].values()]
    tables += [
        {
            "title": split.replace("_", " ").capitalize(),
            "note": "A further split, read once at the end and no part of the objective.",
            "systems": systems,
            "rows": _rows(results[split], results["tasks"], systems),
        }
        for split in further
    ]
    return tables


def _gains(results: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    return {
        system: {"mean": found["diff"], "low": found["low"], "high": found["high"]}
        for system, found in results["objective"]["gain"].items()
    }


def _rows(
    table: Mapping[str, Any], tasks: Mapping[str, Any], systems: Sequence[str]
) -> list[dict[str, Any]]:
    return [
        {
            "task": task,
            "metric": tasks[task]["metric"],
            "cells": [_cell(by.get(s)) for s in systems],
        }
        for task, by in table.items()
    ]


def _sum(name: str, values: Mapping[str, Any], systems: Sequence[str]) -> dict[str, Any]:
    cells = [_cell(values[s]) if s in values else {"value": ""} for s in systems]
    return {"task": name, "sum": True, "cells": cells}


def _cell(score: Mapping[str, Any] | None) -> dict[str, str]:
    if score is None:
        return {"value": "failed"}
    odd = [
        f"{100 * score[rate]:.0f} % {text}"
        for rate, text in (("empty", "empty"), ("wrong_language", "not in the language"))
        if score.get(rate, 0) >= 0.005
    ]
    if unread := score.get("metrics", {}).get("judge_unread"):
        odd.append(f"{100 * unread:.0f} % of verdicts not read")
    return {
        "value": f"{score['mean']:.3f}",
        "interval": f"{score['low']:.3f} to {score['high']:.3f}",
        "odd": ", ".join(odd),
    }


def _gallery(journal: Journal) -> list[dict[str, Any]]:
    found = journal.find("gallery")
    cards = []
    for entry in found["examples"] if found else []:
        answers = []
        bounded = journal.header["tasks"][entry["task"]]["metric"] not in _UNBOUNDED
        for system, row in reported_rows(journal, entry["split"]).items():
            scores = row["tasks"].get(entry["task"])
            if scores is None or system == UNIFORM:
                continue
            score = scores["per_example"][entry["row"]]
            answers.append(
                {
                    "system": system,
                    "text": scores["answers"][entry["row"]],
                    "score": "not read" if score is None else f"{score:.2f}",
                    "full": bounded and score is not None and score >= 1.0,
                }
            )
        extra = entry["split"] != journal.header["splits"]["holdout"]
        cards.append(
            {
                **entry,
                "split": entry["split"].replace("_", " ") if extra else "",
                "references": " / ".join(entry["references"][:4]),
                "answers": answers,
            }
        )
    return cards


def _facts(
    results: Mapping[str, Any], cost: Mapping[str, Any], header: Mapping[str, Any]
) -> list[tuple[str, str]]:
    seconds = cost["seconds"]
    frozen = results["frozen"] or {"tensors": 0, "changed": 0}
    return [
        ("candidates", f"{cost['candidates']}, baselines included"),
        ("examples answered", f"{cost['examples']:,}"),
        ("tokens generated", f"{cost['generated_tokens']:,}"),
        (
            "seconds",
            f"{sum(seconds.values()):.0f}: "
            + ", ".join(f"{name} {value:.1f}" for name, value in seconds.items()),
        ),
        ("frozen tensors", f"{frozen['tensors']}, of which {frozen['changed']} changed"),
        ("seed", f"{header['config']['seed']} (one seed is not a result: run others)"),
        *(
            (f"model {name}", f"{model['name']}, fingerprint {model['fingerprint']}")
            for name, model in header["models"].items()
        ),
        *(tuple(line.split(": ", 1)) for line in header["told"]),
    ]
