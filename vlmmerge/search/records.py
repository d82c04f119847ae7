"""Evaluations as journal rows, and what is read back from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlmmerge.engines import Outcome
from vlmmerge.recipes import Recipe
from vlmmerge.scoring import TaskScore
from vlmmerge.scoring.statistics import or_none
from vlmmerge.search.journal import Row

# What is kept of a single row's score.
DECIMALS = 6

# Phases of a search, in their order.
BASELINE, CANDIDATE, FINAL, REPORT = "baseline", "candidate", "final", "report"


@dataclass(frozen=True)
class Plan:
    """One evaluation to make: who, of which recipe, on which rows."""

    phase: str
    label: str  # unique within its phase and split
    recipe: Recipe
    split: str
    rows: Mapping[str, Sequence[int]]
    vector: Sequence[float] | None = None
    keep_answers: bool = False
    strategy_seconds: float = 0.0


def to_row(plan: Plan, outcome: Outcome, objective: float | None) -> Row:
    """The journal row of a finished evaluation."""
    recipe = plan.recipe.to_config()
    return {
        "type": "evaluation",
        "phase": plan.phase,
        "label": plan.label,
        "split": plan.split,
        "status": "ok" if outcome.failure is None else "failed",
        "reason": outcome.failure,
        "objective": objective,
        "vector": None if plan.vector is None else list(plan.vector),
        "recipe": {k: recipe[k] for k in ("method", "coefficients", "shared")},
        "recipe_hash": plan.recipe.content_hash,
        "tasks": {
            name: _score_row(score, plan.phase != CANDIDATE, plan.keep_answers)
            for name, score in outcome.scores.items()
        },
        "examples": sum(score.n for score in outcome.scores.values()),
        "generated_tokens": outcome.generated_tokens,
        "merging_seconds": round(outcome.merging_seconds, 4),
        "scoring_seconds": round(outcome.scoring_seconds, 4),
        "strategy_seconds": round(plan.strategy_seconds, 4),
    }


def _score_row(score: TaskScore, keep_rows: bool, keep_answers: bool) -> Row:
    row: Row = score.summary()
    if keep_rows:
        row["per_example"] = [or_none(round(value, DECIMALS)) for value in score.per_example]
    if keep_answers:
        row["answers"] = list(score.answers)
    return row


def means(row: Row) -> dict[str, float]:
    """Task means of an evaluation row."""
    return {name: float(task["mean"]) for name, task in row["tasks"].items()}


def is_ok(row: Mapping[str, Any]) -> bool:
    return bool(row["status"] == "ok")
