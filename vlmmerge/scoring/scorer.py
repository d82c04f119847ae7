"""Scorer: asks a runner's model the rows of tasks and has the answers judged."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from vlmmerge.scoring.encoding import Encoded
from vlmmerge.scoring.judge import Judge
from vlmmerge.scoring.runner import Pending, Runner
from vlmmerge.tasks import Example, Task

Rows = Mapping[str, Sequence[int]]  # task -> row numbers


def draw_rows(sizes: Mapping[str, int], limit: int | None, seed: int) -> Rows:
    """Row numbers of each task: all, or `limit` of them drawn by the seed, in order."""
    rng = np.random.default_rng([seed, 0])
    return {
        task: sorted(int(i) for i in rng.permutation(size)[: limit or size])
        for task, size in sizes.items()
    }


@dataclass(frozen=True)
class TaskScore:
    """One model on some rows of one task: per-row scores, answers, and rates of odd answers."""

    metric: str
    per_example: tuple[float, ...]
    answers: tuple[str, ...]
    empty: float
    unparsable: float
    wrong_language: float
    metrics: Mapping[str, float]

    @property
    def n(self) -> int:
        return len(self.per_example)

    @cached_property
    def mean(self) -> float:
        return math.fsum(self.per_example) / self.n

    @cached_property
    def stderr(self) -> float:
        """Of the mean; 0 for a single row."""
        if self.n < 2:
            return 0.0
        spread = math.fsum((score - self.mean) ** 2 for score in self.per_example)
        return math.sqrt(spread / (self.n - 1) / self.n)

    def summary(self) -> dict[str, Any]:
        """All figures but those of single rows, as reports and journals have them."""
        return {
            "mean": self.mean,
            "stderr": self.stderr,
            "n": self.n,
            "empty": self.empty,
            "unparsable": self.unparsable,
            "wrong_language": self.wrong_language,
            "metrics": dict(self.metrics),
        }


class Scorer:
    """Tasks bound to one model. Rows are encoded once and answered for every candidate."""

    def __init__(self, runner: Runner, tasks: Mapping[str, Task]) -> None:
        self.runner = runner
        self.tasks = tasks
        self._encoded: dict[tuple[str, str, int], Encoded] = {}
        self._judges: dict[tuple[str, str], Judge] = {}
        self.generated_tokens = 0

    def score(self, split: str, rows: Rows, further: bool = True) -> dict[str, TaskScore]:
        """Score the model as it is now on `rows` of `split`, task by task.

        `further`: also by the metrics that a task only reports.
        """
        # All is encoded before any is answered: a tokenizer is not for two threads at once.
        prompts = {name: self._encode(self.tasks[name], split, rows[name]) for name in rows}
        pending = {name: self._ask(self.tasks[name], prompts[name]) for name in rows}
        try:
            # One task's answers are judged while the next ones' are under way.
            return {
                name: self._judged(self.tasks[name], split, rows[name], asked.result(), further)
                for name, asked in pending.items()
            }
        finally:
            for asked in pending.values():
                asked.settle()

    def _ask(self, task: Task, prompts: Sequence[Encoded]) -> Pending[Any]:
        if task.kind == "multiple_choice":
            return self.runner.option_log_likelihoods(prompts)
        return self.runner.generate(prompts, task.max_new_tokens)

    def _judged(
        self, task: Task, split: str, rows: Sequence[int], results: Sequence[Any], further: bool
    ) -> TaskScore:
        every = task.load(split)
        examples = [every[i] for i in rows]
        if task.kind == "multiple_choice":
            answers = likeliest(task, examples, self._encode(task, split, rows), results)
        else:
            answers = [text for text, _ in results]
            self.generated_tokens += sum(tokens for _, tokens in results)
        references = [example.references for example in examples]
        verdict = self._judge(task, split).score(answers, references, further)
        return TaskScore(
            metric=task.metric,
            per_example=verdict.per_example,
            answers=tuple(answers),
            empty=verdict.empty / len(answers),
            unparsable=0.0,
            wrong_language=verdict.wrong_language / len(answers),
            metrics=verdict.metrics,
        )

    def _encode(self, task: Task, split: str, rows: Sequence[int]) -> list[Encoded]:
        examples = task.load(split)
        for row in rows:
            if (task.name, split, row) not in self._encoded:
                encoded = self.runner.encoder.encode(task, examples[row])
                self._encoded[task.name, split, row] = encoded
        return [self._encoded[task.name, split, row] for row in rows]

    def _judge(self, task: Task, split: str) -> Judge:
        key = (task.name, split)
        if key not in self._judges:
            references = [example.references for example in task.load(split)]
            self._judges[key] = Judge(task, references)
        return self._judges[key]


def likeliest(
    task: Task,
    examples: Sequence[Example],
    prompts: Sequence[Encoded],
    scores: Sequence[Sequence[float]],
) -> list[str]:
    """The likeliest option of every example, by the task's normalisation."""
    chosen = []
    for example, prompt, values in zip(examples, prompts, scores, strict=True):
        lengths = {
            "sum": [1] * len(values),
            "token": [len(option) for option in prompt.options],
            "char": [len(option) for option in example.options],
            "byte": [len(option.encode()) for option in example.options],
        }[task.normalization]
        scaled = [value / max(1, n) for value, n in zip(values, lengths, strict=True)]
        chosen.append(example.options[max(range(len(scaled)), key=scaled.__getitem__)])
    return chosen
