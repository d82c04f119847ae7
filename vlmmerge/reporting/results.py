"""results.json: a pure function of the journal."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vlmmerge.anatomy import RECIPIENT
from vlmmerge.errors import ConfigError
from vlmmerge.scoring import Bootstrap, Scaled, Weighted, interval
from vlmmerge.search import Journal, Row
from vlmmerge.search.records import BASELINE, CANDIDATE, REPORT, is_ok, means

UNIFORM, BEST = "uniform", "best"


def results_of(journal: Journal) -> dict[str, Any]:
    """What a search found, with intervals, as results.json has it."""
    header, choice = journal.header, journal.find("choice")
    assert choice is not None
    splits = header["splits"]
    objective = scaled(journal)
    searched = searched_rows(journal)
    reports = {split: reported_rows(journal, split) for split in report_splits(journal)}
    units = header["units"]
    whole = Bootstrap({t: units[splits["search"]][t] for t in objective.tasks})
    tables = {"search": _table(searched, whole)}
    tables |= {
        ("holdout" if split == splits["holdout"] else split): _table(rows, Bootstrap(units[split]))
        for split, rows in reports.items()
    }
    held = reports[splits["holdout"]]
    return {
        "tasks": header["tasks"],
        **tables,
        "objective": {
            "search": {system: objective.value(means(row)) for system, row in searched.items()},
            **_objective(held, Bootstrap(units[splits["holdout"]]), objective),
        },
        "cost": _cost(journal),
        "frozen": (journal.find("export") or {}).get("frozen"),
        "pareto": _pareto(journal, objective),
        "chosen": choice["best"][1],
        "recipe": searched[BEST]["recipe"],
    }


def scaled(journal: Journal) -> Scaled:
    """The search's objective with its scales."""
    choice = journal.find("choice")
    assert choice is not None
    spec = {k: v for k, v in journal.header["objective"].items() if k != "_target_"}
    return Scaled(Weighted(**spec), choice["origins"], choice["scales"])


def systems(journal: Journal) -> list[str]:
    """Who is compared: the recipient, the donors, the best uniform merge, the best found."""
    return [RECIPIENT, *journal.header["donors"], UNIFORM, BEST]


def searched_rows(journal: Journal) -> dict[str, Row]:
    """Every system's evaluation on the whole search split."""
    choice = journal.find("choice")
    assert choice is not None
    split = journal.header["splits"]["search"]
    keys = {s: (BASELINE, s, split) for s in (RECIPIENT, *journal.header["donors"])}
    keys |= {UNIFORM: choice[UNIFORM], BEST: choice[BEST]}
    return {system: _found(journal, *key) for system, key in keys.items()}


def report_splits(journal: Journal) -> list[str]:
    """The holdout, then the extra splits that were scored."""
    return list(dict.fromkeys(row["split"] for row in journal.evaluations(REPORT)))


def reported_rows(journal: Journal, split: str) -> dict[str, Row]:
    """Every system's evaluation on a split that was reported."""
    return {system: _found(journal, REPORT, system, split) for system in systems(journal)}


def _found(journal: Journal, phase: str, label: str, split: str) -> Row:
    row = journal.evaluation(phase, label, split)
    assert row is not None, (phase, label, split)
    return row


def _table(rows: Mapping[str, Row], bootstrap: Bootstrap) -> dict[str, Any]:
    """Task -> system -> mean with interval. A system that failed has no figures."""
    tasks = dict.fromkeys(task for row in rows.values() for task in row["tasks"])
    table: dict[str, Any] = {task: {} for task in tasks}
    for system, row in rows.items():
        for task, score in row["tasks"].items():
            resampled = bootstrap.means(task, score["per_example"])
            table[task][system] = {
                **asdict(interval(score["mean"], resampled)),
                **{k: v for k, v in score.items() if k not in ("mean", "per_example", "answers")},
            }
    return table


def _objective(
    rows: Mapping[str, Row], bootstrap: Bootstrap, objective: Scaled
) -> dict[str, dict[str, Any]]:
    """The objective on the holdout with intervals, and best minus every other system, paired."""
    values = {s: objective.value(means(row)) for s, row in rows.items() if is_ok(row)}
    resampled = {
        system: objective.value(
            {
                task: bootstrap.means(task, rows[system]["tasks"][task]["per_example"])
                for task in objective.tasks
            }
        )
        for system in values
    }
    held = {system: asdict(interval(values[system], resampled[system])) for system in values}
    gain = {}
    for system in values:
        if system != BEST:
            found = interval(values[BEST] - values[system], resampled[BEST] - resampled[system])
            gain[system] = {"diff": found.mean, "low": found.low, "high": found.high}
    return {"holdout": held, "gain": gain}


def _cost(journal: Journal) -> dict[str, Any]:
    rows = [row for row in journal.rows if row["type"] == "evaluation"]
    seconds = {
        name: sum(row[f"{name}_seconds"] for row in rows)
        for name in ("merging", "scoring", "strategy")
    }
    # The last row is written after this is counted.
    wall = sum(row["wall_seconds"] for row in journal.rows if row["type"] != "end")
    seconds["other"] = max(0.0, wall - sum(seconds.values()))
    return {
        "candidates": len(journal.evaluations(CANDIDATE)) + len(journal.evaluations(BASELINE)),
        "examples": sum(row["examples"] for row in rows),
        "generated_tokens": sum(row["generated_tokens"] for row in rows),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
    }


def _pareto(journal: Journal, objective: Scaled) -> list[dict[str, Any]]:
    """The candidates that no other beats on every task of the objective."""
    rows = [row for row in journal.evaluations(CANDIDATE) if is_ok(row)]
    directions = {task: 1 if scale > 0 else -1 for task, scale in objective.scales.items()}
    points = [tuple(directions[t] * means(row)[t] for t in objective.tasks) for row in rows]

    def beaten(i: int) -> bool:
        return any(
            points[j] != points[i]
            and all(a >= b for a, b in zip(points[j], points[i], strict=True))
            for j in range(len(points))
        )

    return [
        {"candidate": int(row["label"]), "objective": row["objective"], "tasks": means(row)}
        for i, row in enumerate(rows)
        if not beaten(i)
    ]


def verdict(results: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether the best merge is better than every other system on the holdout, and a sentence."""
    gain = results["objective"]["gain"]
    unbeaten = [system for system, found in gain.items() if found["low"] <= 0]
    if not unbeaten:
        least = min(gain, key=lambda system: gain[system]["diff"])
        return True, (
            f"On the holdout the searched merge is better than {listed(list(gain))}: its objective"
            f" is {_signed(gain[least])} above {least}, the nearest, every 95 % interval above 0."
        )
    return False, (
        "On the holdout the searched merge is not shown to be better than "
        f"{listed(unbeaten)}: "
        + "; ".join(f"{_signed(gain[s])} against {s}" for s in unbeaten)
        + "."
    )


def read_results(output: Path) -> dict[str, Any]:
    """The results.json of a finished search. Raises `ConfigError` where there is none."""
    path = output / "results.json"
    try:
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    return results


def _signed(found: Mapping[str, float]) -> str:
    return f"{found['diff']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]"


def listed(names: Sequence[str]) -> str:
    """Names as a sentence lists them."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
