"""The search: baselines, then ask and tell, then the choice, then the holdout, all in one journal.

The loop has no state but the journal. A resumed search runs the same lines again; an evaluation
whose row is there is read, not made, and the strategy is told what the row says.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from vlmmerge.anatomy import RECIPIENT
from vlmmerge.engines import Job, Score
from vlmmerge.errors import ConfigError, EngineError
from vlmmerge.recipes import MergeSpace, Recipe
from vlmmerge.scoring import Rows, Scaled, Weighted, draw_rows
from vlmmerge.search.journal import Journal, Row
from vlmmerge.search.records import (
    BASELINE,
    CANDIDATE,
    FINAL,
    REPORT,
    Plan,
    is_ok,
    means,
    to_row,
)
from vlmmerge.search.strategies import Strategy

UNIFORM_WEIGHTS = (0.3, 0.5, 0.7, 1.0, 1.3)

# A vector asked for again on a resume may differ by this much (another CPU or BLAS).
SAME_VECTOR = 1e-6


class Watch(Protocol):
    """Is told every row as it comes, read from the journal or new."""

    def __call__(self, row: Row, fresh: bool) -> None: ...


@dataclass(frozen=True)
class Budget:
    """How much a search may spend, and how it chooses.

    `candidates` counts the baselines too. Each is scored on `limit` rows a task, baselines and the
    best `finalists` on the whole search split.
    """

    candidates: int = 200
    limit: int | None = 64
    finalists: int = 4

    def __post_init__(self) -> None:
        for name in ("candidates", "limit", "finalists"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ConfigError(f"budget.{name}: {value!r} is not a whole number from 1 up")


@dataclass(frozen=True)
class Splits:
    """Names of splits: searched on, held out, and reported beside it where a task has them."""

    search: str = "search"
    holdout: str = "holdout"
    extra: tuple[str, ...] = ()


@dataclass(frozen=True)
class Search:
    """All that a search is, before it runs. `sizes`: split -> task -> number of rows."""

    space: MergeSpace
    objective: Weighted
    strategy: Strategy
    sizes: Mapping[str, Mapping[str, int]]
    higher_is_better: Mapping[str, bool]
    budget: Budget
    splits: Splits
    seed: int

    def run(self, journal: Journal, score: Score, watch: Watch) -> Recipe:
        """Run or finish the search. Returns the recipe that it chose."""
        session = _Session(journal, score, watch)
        searched = self.objective.searched(self.sizes[self.splits.search])
        whole = {t: range(self.sizes[self.splits.search][t]) for t in searched}
        # The rows that every candidate is scored on.
        sample = draw_rows(
            {t: len(rows) for t, rows in whole.items()}, self.budget.limit, self.seed
        )

        parents = session.evaluate(self._baselines(self._parents(), whole), None)
        objective = self._fit(parents)
        single = {f"uniform-{weight}": self.space.uniform(weight) for weight in UNIFORM_WEIGHTS}
        uniforms = session.evaluate(self._baselines(single, whole), objective)
        left = self.budget.candidates - len(parents) - len(uniforms)
        candidates = self._explore(session, objective, sample, left)
        finals = self._final(session, objective, whole, candidates)
        uniform, best = _best(uniforms), _best([*finals, *uniforms])
        session.note_choice(uniform, best, objective)
        self._report(session, objective, {"uniform": uniform.plan.recipe, "best": best.plan.recipe})
        return best.plan.recipe

    def _parents(self) -> dict[str, Recipe]:
        """The recipient, and each donor in its place, as recipes."""
        template = self.space.template
        return {name: transplant(template, name) for name in (RECIPIENT, *template.models.donors)}

    def _baselines(self, recipes: Mapping[str, Recipe], rows: Rows) -> list[Plan]:
        return [
            Plan(BASELINE, label, recipe, self.splits.search, rows)
            for label, recipe in recipes.items()
        ]

    def _fit(self, parents: Sequence["_Done"]) -> Scaled:
        for parent in parents:
            if not is_ok(parent.row):
                raise EngineError(f"{parent.plan.label}: cannot be scored ({parent.row['reason']})")
        recipient, *donors = (means(parent.row) for parent in parents)
        names = list(self.space.template.models.donors)
        return self.objective.fit(
            recipient, dict(zip(names, donors, strict=True)), self.higher_is_better
        )

    def _explore(
        self, session: "_Session", objective: Scaled, sample: Rows, budget: int
    ) -> list["_Done"]:
        """Ask and tell until the budget is spent; values are told in the order asked."""
        done: list[_Done] = []
        while len(done) < budget and not self.strategy.done:
            start = time.perf_counter()
            asked = self.strategy.ask()
            seconds = (time.perf_counter() - start) / len(asked)
            plans = [
                Plan(
                    CANDIDATE,
                    str(len(done) + i),
                    self.space.recipe(vector),
                    self.splits.search,
                    sample,
                    vector,
                    strategy_seconds=seconds,
                )
                for i, vector in enumerate(asked[: budget - len(done)])
            ]
            batch = [self._as_scored(one) for one in session.evaluate(plans, objective)]
            done += batch
            if len(batch) == len(asked):
                self.strategy.tell(asked, [one.row["objective"] for one in batch])
        return done

    def _as_scored(self, one: "_Done") -> "_Done":
        """The candidate with the journal's vector, which is what was scored.

        Raises `ConfigError` where the strategy now asks for another.
        """
        assert one.plan.vector is not None
        vector = one.row["vector"]
        gap = max(abs(a - b) for a, b in zip(one.plan.vector, vector, strict=True))
        if gap > SAME_VECTOR:
            raise ConfigError(
                f"candidate {one.plan.label} of the journal is {gap:.1e} away from what the"
                " strategy asks for now; another version of it wrote this journal"
            )
        return replace(one, plan=replace(one.plan, recipe=self.space.recipe(vector)))

    def _final(
        self,
        session: "_Session",
        objective: Scaled,
        whole: Rows,
        candidates: Sequence["_Done"],
    ) -> list["_Done"]:
        """The best candidates and the distribution's mean, on the whole search split."""
        ranked = sorted(
            (one for one in candidates if is_ok(one.row)),
            key=lambda one: -one.row["objective"],
        )
        plans = {
            f"candidate-{one.plan.label}": one.plan.recipe
            for one in ranked[: self.budget.finalists]
        }
        if self.strategy.mean is not None:
            plans["mean"] = self.space.recipe(self.strategy.mean)
        return session.evaluate(
            [
                Plan(FINAL, label, recipe, self.splits.search, whole)
                for label, recipe in plans.items()
            ],
            objective,
        )

    def _report(self, session: "_Session", objective: Scaled, merges: Mapping[str, Recipe]) -> None:
        """Every system on the holdout, once, and on the extra splits."""
        systems = {**self._parents(), **merges}
        for split in (self.splits.holdout, *self.splits.extra):
            rows = {task: range(n) for task, n in self.sizes.get(split, {}).items()}
            complete = set(objective.tasks) <= rows.keys()
            plans = [
                Plan(REPORT, label, recipe, split, rows, keep_answers=True)
                for label, recipe in systems.items()
            ]
            session.evaluate(plans if rows else [], objective if complete else None)


def transplant(template: Recipe, source: str) -> Recipe:
    """The recipe that puts one source's backbone in the recipient's place, unchanged."""
    names = template.sources
    coefficients = {name: {"weight": 1.0 if name == source else 0.0} for name in names}
    return replace(template, method="linear", coefficients=coefficients, shared={})


@dataclass(frozen=True)
class _Done:
    plan: Plan
    row: Row


@dataclass(frozen=True)
class _Session:
    journal: Journal
    score: Score
    watch: Watch

    def evaluate(self, plans: Sequence[Plan], objective: Scaled | None) -> list[_Done]:
        """Every plan's row, in order: read from the journal, or scored and written there."""

        def known(plan: Plan) -> Row | None:
            return self.journal.evaluation(plan.phase, plan.label, plan.split)

        jobs = [
            Job(plan.recipe, plan.split, plan.rows, further=plan.phase != CANDIDATE)
            for plan in plans
            if known(plan) is None
        ]
        outcomes = self.score(jobs)
        done = []
        for plan in plans:
            row = known(plan)
            if fresh := row is None:
                outcome = next(outcomes)
                value = None
                if outcome.failure is None and objective is not None:
                    value = objective.value({n: s.mean for n, s in outcome.scores.items()})
                row = self.journal.append(to_row(plan, outcome, value))
            assert row is not None
            self.watch(row, fresh)
            done.append(_Done(plan, row))
        return done

    def note_choice(self, uniform: _Done, best: _Done, objective: Scaled) -> None:
        """Write down which evaluations won, and the objective's scales, for the report."""
        if self.journal.find("choice") is None:
            self.journal.append(
                {
                    "type": "choice",
                    "uniform": [uniform.plan.phase, uniform.plan.label, uniform.plan.split],
                    "best": [best.plan.phase, best.plan.label, best.plan.split],
                    "origins": dict(objective.origins),
                    "scales": dict(objective.scales),
                }
            )


def _best(done: Sequence[_Done]) -> _Done:
    """The one of largest objective, the first of equals. Raises `EngineError` where all failed."""
    scored = [one for one in done if is_ok(one.row)]
    if not scored:
        raise EngineError(f"every candidate failed, the last with: {done[-1].row['reason']}")
    return max(scored, key=lambda one: one.row["objective"])
