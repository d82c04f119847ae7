"""Worker: holds one live model, merges candidates into it and scores them."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from vlmmerge.anatomy import Alignment
from vlmmerge.errors import EngineError
from vlmmerge.merging import ResidentMerge
from vlmmerge.recipes import Recipe
from vlmmerge.scoring import Rows, Runner, Scorer, TaskScore
from vlmmerge.tasks import AnyTask


@dataclass(frozen=True)
class Job:
    """A recipe to merge, and the rows of a split to score it on.

    `further`: by every metric of a task, not only the one that is searched on.
    """

    recipe: Recipe
    split: str
    rows: Rows
    further: bool = True


@dataclass(frozen=True)
class Outcome:
    """What came of a job: scores by task, or why there are none."""

    scores: Mapping[str, TaskScore]
    failure: str | None
    generated_tokens: int
    merging_seconds: float
    scoring_seconds: float


# Scores jobs, giving their outcomes in the jobs' order: what an engine offers to a search.
Score = Callable[[Iterable[Job]], Iterator[Outcome]]


class Worker:
    """The recipient in memory with its sources; one candidate at a time is merged into it."""

    def __init__(
        self,
        alignment: Alignment,
        resident: Recipe,
        tasks: Mapping[str, AnyTask],
        device: str,
        threads: int | None,
    ) -> None:
        runner = Runner(alignment.models.recipient, device, threads)
        self._merge = ResidentMerge(alignment, runner.model, list(resident.models.donors), threads)
        self._scorer = Scorer(runner, tasks)

    def run(self, job: Job) -> Outcome:
        """Merge and score. A merge or a model that is not finite is a failure, not an error."""
        start = time.perf_counter()
        merged = start
        tokens = self._scorer.generated_tokens
        scores: Mapping[str, TaskScore] = {}
        failure = None
        try:
            self._merge.apply(job.recipe)
            merged = time.perf_counter()
            scores = self._scorer.score(job.split, job.rows, job.further)
        except EngineError as error:
            failure = str(error)
        end = time.perf_counter()
        return Outcome(
            scores, failure, self._scorer.generated_tokens - tokens, merged - start, end - merged
        )
