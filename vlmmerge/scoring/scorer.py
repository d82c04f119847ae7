"""Scorer: asks a runner's model the rows of tasks and has the answers judged."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np

from vlmmerge.scoring.choices import asked, chosen
from vlmmerge.scoring.encoding import Encoded
from vlmmerge.scoring.judge import Judge
from vlmmerge.scoring.lm_eval import LmEval
from vlmmerge.scoring.parsing import cut, parse
from vlmmerge.scoring.runner import Pending, Runner
from vlmmerge.scoring.statistics import known
from vlmmerge.tasks import AnyTask, Example, LmEvalTask, Task

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
    """One model on some rows of one task: per-row scores, answers, and rates of odd answers.

    `answers` are as read, `raw` as the model wrote them; `scores` are per-row scores by metric,
    NaN where a judge's verdict was not read, and `words` what the judge said of each row.
    """

    metric: str
    per_example: tuple[float, ...]
    answers: tuple[str, ...]
    empty: float
    unparsable: float
    wrong_language: float
    metrics: Mapping[str, float]
    raw: tuple[str, ...] = ()
    scores: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    words: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        """Rows that have a score."""
        return len(known(self.per_example))

    @cached_property
    def mean(self) -> float:
        return math.fsum(known(self.per_example)) / self.n

    @cached_property
    def stderr(self) -> float:
        """Of the mean; 0 for a single row."""
        if self.n < 2:
            return 0.0
        spread = math.fsum((score - self.mean) ** 2 for score in known(self.per_example))
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

    def __init__(self, runner: Runner, tasks: Mapping[str, AnyTask]) -> None:
        self.runner = runner
        self.tasks = {name: task for name, task in tasks.items() if isinstance(task, Task)}
        self._lm_eval_tasks = {n: task for n, task in tasks.items() if isinstance(task, LmEvalTask)}
        self._encoded: dict[tuple[str, str, int], list[Encoded]] = {}
        self._judges: dict[tuple[str, str], Judge] = {}
        self.generated_tokens = 0

    def score(self, split: str, rows: Rows, further: bool = True) -> dict[str, TaskScore]:
        """Score the model as it is now on `rows` of `split`, task by task.

        `further`: also by the metrics that a task only reports.
        """
        # All is encoded before any is answered: a tokenizer is not for two threads at once.
        ours = [name for name in rows if name in self.tasks]
        prompts = {name: self._encode(self.tasks[name], split, rows[name]) for name in ours}
        pending = {name: self._ask(self.tasks[name], prompts[name]) for name in ours}
        try:
            # One task's answers are judged while the next ones' are under way.
            scores = {
                name: self._judged(self.tasks[name], split, rows[name], answer.result(), further)
                for name, answer in pending.items()
            }
            # lm-eval asks on this thread, when the others are at rest.
            scores |= {
                name: self._by_lm_eval(task, split, rows[name])
                for name, task in self._lm_eval_tasks.items()
                if name in rows
            }
            return {name: scores[name] for name in rows}
        finally:
            for answer in pending.values():
                answer.settle()

    @cached_property
    def _lm_eval(self) -> LmEval:
        return LmEval(self.runner.model, self.runner.encoder.tokenizer)

    def _by_lm_eval(self, task: LmEvalTask, split: str, rows: Sequence[int]) -> TaskScore:
        found = self._lm_eval.score(task, split, rows)
        self.generated_tokens += found.generated_tokens
        return TaskScore(
            metric=task.metric,
            per_example=found.per_example,
            answers=found.answers,
            empty=sum(not answer.strip() for answer in found.answers) / len(rows),
            unparsable=found.unparsable / len(rows),
            wrong_language=found.wrong_language / len(rows),
            metrics=found.metrics,
        )

    def _ask(self, task: Task, rows: Sequence[Sequence[Encoded]]) -> Pending[Any]:
        prompts = [prompt for row in rows for prompt in row]
        if task.kind == "perplexity":
            return self.runner.perplexities(prompts)
        if task.weighs_options:
            return self.runner.option_log_likelihoods(prompts)
        return self.runner.generate(prompts, task.new_tokens, task.stop)

    def _judged(
        self, task: Task, split: str, rows: Sequence[int], results: Sequence[Any], further: bool
    ) -> TaskScore:
        every = task.load(split)
        examples = [every[i] for i in rows]
        if task.kind == "perplexity":
            return perplexity(task, [tuple(found) for found in results])
        if task.weighs_options:
            raw = likeliest(task, examples, self._encode(task, split, rows), results)
        else:
            raw = [cut(text, task.stop) for text, _ in results]
            self.generated_tokens += sum(tokens for _, tokens in results)
        return judged(task, self._judge(task, split), examples, raw, further)

    def _encode(self, task: Task, split: str, rows: Sequence[int]) -> list[list[Encoded]]:
        """Every row's prompts."""
        examples = task.load(split)
        for row in rows:
            if (task.name, split, row) not in self._encoded:
                prompts = [self.runner.encoder.encode(task, e) for e in asked(task, examples[row])]
                self._encoded[task.name, split, row] = prompts
        return [self._encoded[task.name, split, row] for row in rows]

    def _judge(self, task: Task, split: str) -> Judge:
        key = (task.name, split)
        if key not in self._judges:
            self._judges[key] = judge_of(task, split)
        return self._judges[key]


def judge_of(task: Task, split: str) -> Judge:
    """The judge of a task that knows all references of a split."""
    return Judge(task, [example.references for example in task.load(split)])


def judged(
    task: Task, judge: Judge, examples: Sequence[Example], raw: Sequence[str], further: bool = True
) -> TaskScore:
    """Scores of what a model answered (or chose) to `examples`. What cannot be read is wrong."""
    reads = not task.weighs_options
    parsed = [
        parse(task, example, text) if reads else text
        for example, text in zip(examples, raw, strict=True)
    ]
    answers = ["" if answer is None else answer for answer in parsed]
    references = [example.references for example in examples]
    pictures = [example.pictures for example in examples]
    questions = [example.prompt for example in examples]
    verdict = judge.score(answers, references, further, pictures, raw, questions)
    unread = sum(a is None and bool(text) for a, text in zip(parsed, raw, strict=True))
    return TaskScore(
        metric=task.metric,
        per_example=verdict.per_example,
        answers=tuple(answers),
        empty=verdict.empty / len(answers),
        unparsable=unread / len(answers),
        wrong_language=verdict.wrong_language / len(answers),
        metrics=verdict.metrics,
        raw=tuple(raw),
        scores=verdict.scores,
        words=verdict.words,
    )


def perplexity(task: Task, found: Sequence[tuple[float, int, int]]) -> TaskScore:
    """Scores of log-likelihoods of texts: (natural log, tokens, bytes) each.

    Per row `bits_per_byte`, `log_perplexity` (nats a token) and `perplexity` (its exponential).
    `corpus_` figures are of all rows as one text: each counts by its length there.
    """
    scores = {
        "bits_per_byte": tuple(-total / math.log(2) / size for total, _, size in found),
        "log_perplexity": tuple(-total / tokens for total, tokens, _ in found),
        "perplexity": tuple(_exp(-total / tokens) for total, tokens, _ in found),
    }
    total = math.fsum(row[0] for row in found)
    tokens, size = sum(row[1] for row in found), sum(row[2] for row in found)
    metrics = {name: math.fsum(values) / len(values) for name, values in scores.items()}
    metrics |= {
        "corpus_bits_per_byte": -total / math.log(2) / size,
        "corpus_perplexity": _exp(-total / tokens),
    }
    raw = tuple(
        json.dumps({"log_likelihood": value, "tokens": count, "bytes": length})
        for value, count, length in found
    )
    main = scores[task.metric]
    return TaskScore(task.metric, main, raw, 0.0, 0.0, 0.0, metrics, raw, scores)


def likeliest(
    task: Task,
    examples: Sequence[Example],
    prompts: Sequence[Sequence[Encoded]],
    scores: Sequence[Sequence[float]],
) -> list[str]:
    """The option that every example's prompts choose; `scores` are of all prompts in a row."""
    remaining = iter(scores)
    return [
        example.options[chosen(task, example, row, list(islice(remaining, len(row))))]
        for example, row in zip(examples, prompts, strict=True)
    ]


def _exp(value: float) -> float:
    """Of what a broken model gives too: as large as a number can be, not an error."""
    return math.exp(min(value, 700.0))
