"""The loop: phases and budget, failures, the choice, and resuming from any line."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from check_kills import without_times

from vlmmerge.anatomy import Cell
from vlmmerge.engines import Job, Outcome
from vlmmerge.errors import ConfigError, EngineError
from vlmmerge.recipes import MergeSpace, Recipe, SpaceSpec
from vlmmerge.scoring import TaskScore, Weighted
from vlmmerge.search import Budget, Journal, Row, Search, Splits
from vlmmerge.search.strategies.cma_es import CmaEs

CELLS = [Cell(None, "embed"), Cell(0, "attn"), Cell(0, "mlp"), Cell(1, "attn"), Cell(1, "mlp")]
SIZES = {
    "search": {"ja": 20, "en": 20},
    "holdout": {"ja": 30, "en": 30},
    "unseen": {"ja": 10},
}
WANTED = {"recipient": 0.7, "ja": 1.4}


class World:
    """Scores recipes by a formula, as a model would: the more weights are as wanted, the better."""

    def __init__(self, fails: frozenset[int] = frozenset()) -> None:
        self.jobs: list[Job] = []
        self.fails = fails

    def score(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        for job in jobs:
            self.jobs.append(job)
            if len(self.jobs) in self.fails:
                yield Outcome({}, "the model's logits are not numbers (NaN)", 0, 0.1, 0.2)
                continue
            yield Outcome(
                {task: self.of(job, task) for task in job.rows}, None, 10, 0.1 * len(self.jobs), 0.2
            )

    def of(self, job: Job, task: str) -> TaskScore:
        source = "ja" if task == "ja" else "recipient"
        weights = [
            (job.recipe.coefficients_at(cell)[0 if source == "recipient" else 1])["weight"]
            for cell in CELLS
        ]
        quality = 1 - sum(abs(w - WANTED[source]) for w in weights) / 8
        rows = tuple(quality + 0.01 * (row % 3) for row in job.rows[task])
        return TaskScore("exact_match", rows, ("",) * len(rows), 0, 0, 0, {})


def search(seed: int = 0, candidates: int = 40, **budget: int) -> Search:
    template = Recipe.from_config(
        {
            "models": {"recipient": "a/v", "base": "a/b", "donors": {"ja": "a/ja"}},
            "method": "task_arithmetic",
            "coefficients": {"ja": {}},
        }
    )
    spec = SpaceSpec("modules", {"weight": {"low": 0.0, "high": 2.0, "start": 1.0}})
    space = MergeSpace.build(spec, template, CELLS)
    return Search(
        space=space,
        objective=Weighted(),
        strategy=CmaEs(space.start, seed=seed, popsize=6),
        sizes=SIZES,
        higher_is_better={"ja": True, "en": True},
        budget=Budget(candidates=candidates, **{"limit": 8, **budget}),
        splits=Splits(extra=("unseen",)),
        seed=seed,
    )


def silent(row: Row, fresh: bool) -> None:
    """Watches and says nothing."""


def run(path: Path, world: World | None = None, **of: int) -> Journal:
    journal = Journal.resume(path) if path.exists() else Journal.create(path)
    if not journal.rows:
        journal.append({"type": "search", "version": 1})
    search(**of).run(journal, (world or World()).score, silent)
    return journal


def test_phases_and_budget(tmp_path: Path) -> None:
    world = World()
    journal = run(tmp_path / "j", world)
    counted = [len(journal.evaluations(p)) for p in ("baseline", "candidate", "final", "report")]
    assert counted == [7, 33, 5, 8]  # 40 in all; 4 finalists and the mean; 4 systems, 2 splits
    labels = [row["label"] for row in journal.evaluations("baseline")]
    assert labels[:3] == ["recipient", "ja", "uniform-0.3"]
    whole = {"ja": range(20), "en": range(20)}
    assert all(job.rows == whole for job in world.jobs[:7])
    samples = [job.rows for job in world.jobs[7:40]]
    assert all(sample == samples[0] and len(sample["ja"]) == 8 for sample in samples)
    # The holdout is read once by each system, after all else.
    splits = [job.split for job in world.jobs]
    assert splits == ["search"] * 45 + ["holdout"] * 4 + ["unseen"] * 4


def test_the_best_of_the_finals_is_chosen_and_is_good(tmp_path: Path) -> None:
    journal = run(tmp_path / "j", candidates=150)
    choice = journal.find("choice")
    assert choice is not None
    chosen = journal.evaluation(*choice["best"])
    assert chosen is not None
    rivals = [*journal.evaluations("final"), *journal.evaluations("baseline")[2:]]
    assert chosen["objective"] == max(row["objective"] for row in rivals)
    report = journal.evaluation("report", "best", "holdout")
    assert report is not None
    assert report["recipe"] == chosen["recipe"]
    uniform = journal.evaluation("report", "uniform", "holdout")
    assert uniform is not None
    assert report["objective"] > uniform["objective"] + 0.1


def test_seeds_draw_their_own_rows(tmp_path: Path) -> None:
    one, two = World(), World()
    run(tmp_path / "a", one, seed=0)
    run(tmp_path / "b", two, seed=1)
    assert one.jobs[10].rows != two.jobs[10].rows


def test_resumed_from_any_line_it_is_the_same_journal(tmp_path: Path) -> None:
    world = World(fails=frozenset({12}))
    run(tmp_path / "whole", world)
    lines = (tmp_path / "whole").read_bytes().splitlines(keepends=True)
    whole = [without_times(row) for row in Journal.read(tmp_path / "whole").rows]
    for kept in (1, 2, 5, 8, 9, 14, 20, 40, 41, 46, 47, 50, len(lines)):
        path = tmp_path / str(kept)
        path.write_bytes(b"".join(lines[:kept]) + lines[kept - 1][:7])
        evaluated = sum(b'"evaluation"' in line for line in lines[:kept])
        rest = World(fails=frozenset({12 - evaluated}))
        journal = run(path, rest)
        assert path.read_bytes().startswith(b"".join(lines[:kept]))
        assert [without_times(row) for row in journal.rows] == whole
        assert len(rest.jobs) == len(world.jobs) - evaluated


def test_a_failed_candidate_has_a_reason_and_the_search_goes_on(tmp_path: Path) -> None:
    journal = run(tmp_path / "j", World(fails=frozenset({9, 10, 22})))
    failed = [row for row in journal.evaluations("candidate") if row["status"] == "failed"]
    assert [row["label"] for row in failed] == ["1", "2", "14"]
    assert all("NaN" in row["reason"] and row["objective"] is None for row in failed)
    assert len(journal.evaluations("candidate")) == 33
    assert len(journal.evaluations("final")) == 5


def test_a_parent_that_fails_ends_it(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"ja: cannot be scored \(the model's logits"):
        run(tmp_path / "j", World(fails=frozenset({2})))


def test_where_all_merges_fail_it_ends_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="every candidate failed"):
        run(tmp_path / "j", World(fails=frozenset(range(3, 100))))


def test_another_strategys_journal_is_refused(tmp_path: Path) -> None:
    run(tmp_path / "j", seed=0)
    lines = (tmp_path / "j").read_bytes().splitlines(keepends=True)
    (tmp_path / "j").write_bytes(b"".join(lines[:12]))
    with pytest.raises(ConfigError, match="away from what the strategy asks for"):
        run(tmp_path / "j", seed=1)


@pytest.mark.parametrize("field", ["candidates", "limit", "finalists"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "many"])
def test_budgets_are_whole_numbers(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"budget.{field}"):
        Budget(**{field: value})
