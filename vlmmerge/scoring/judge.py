"""Judge: the metrics of one task over one split, ready to score answers to any of its rows."""

import importlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from vlmmerge.config import one_line
from vlmmerge.errors import TaskError
from vlmmerge.scoring.language import SPACELESS, in_language
from vlmmerge.tasks import Task

# Ours, by name; any other name is one of `evaluate`'s own modules or a path.
SHIPPED = {
    "cider": "Cider",
    "exact_match": "ExactMatch",
    "rouge_l": "RougeL",
    "vqa_accuracy": "VqaAccuracy",
}


@dataclass(frozen=True)
class Verdict:
    """Per-row scores of the task's metric, the means of its further metrics, and odd answers."""

    per_example: tuple[float, ...]
    metrics: dict[str, float]
    empty: int
    wrong_language: int

    @property
    def mean(self) -> float:
        return sum(self.per_example) / len(self.per_example)


class Judge:
    """Scores answers. What a metric needs of the whole reference set is counted once, here."""

    def __init__(self, task: Task, references: Sequence[Sequence[str]]) -> None:
        self._task = task
        self._tokenizer = task.tokenizer or ("char" if task.language in SPACELESS else "whitespace")
        names = dict.fromkeys((task.metric, *task.metrics))
        self._metrics = {name: load_metric(name, f"tasks.{task.name}") for name in names}
        self._options = {name: self._options_of(name, references) for name in names}

    def score(
        self, answers: Sequence[str], references: Sequence[Sequence[str]], further: bool = True
    ) -> Verdict:
        """Judge `answers` against the `references` of the same rows.

        Without `further` by the task's main metric alone.
        """
        results = {
            name: metric.compute(
                predictions=list(answers),
                references=[list(row) for row in references],
                **self._options[name],
            )
            for name, metric in self._metrics.items()
            if further or name == self._task.metric
        }
        main = results[self._task.metric]
        if "per_example" not in main:
            raise TaskError(
                f"tasks.{self._task.name}: {self._task.metric} gives no per-example scores"
            )
        language = self._task.language
        return Verdict(
            tuple(float(score) for score in main["per_example"]),
            {name: float(result[name]) for name, result in results.items()},
            sum(not answer for answer in answers),
            0 if language is None else sum(not in_language(a, language) for a in answers),
        )

    def _options_of(self, name: str, references: Sequence[Sequence[str]]) -> dict[str, Any]:
        if name not in SHIPPED:
            return dict(self._task.metric_options)
        options: dict[str, Any] = {"tokenizer": self._tokenizer}
        if name == self._task.metric:
            options |= self._task.metric_options
        if name == "cider":
            from vlmmerge.metrics.cider import DocumentFrequencies
            from vlmmerge.metrics.text import tokenizer

            tokenize = tokenizer(str(options["tokenizer"]))
            options["frequencies"] = DocumentFrequencies.of(references, tokenize)
        return options


def check_judges(tasks: Iterable[Task]) -> None:
    """Refuse unknown metrics, and options that they do not take, before a model is loaded."""
    for task in tasks:
        references = [("a",), ("b",)]
        try:
            Judge(task, references).score(["a", "b"], references)
        except (TypeError, ValueError) as error:
            raise TaskError(f"tasks.{task.name}.metric_options: {one_line(error)}") from error


def load_metric(name: str, where: str) -> Any:
    """A metric by name: ours, or whatever `evaluate.load` finds."""
    if name in SHIPPED:
        module = importlib.import_module(f"vlmmerge.metrics.{name}")
        return getattr(module, SHIPPED[name])(keep_in_memory=True)
    import evaluate

    try:
        return evaluate.load(name, keep_in_memory=True)
    except (OSError, ValueError, ImportError) as error:
        raise TaskError(f"{where}: unknown metric {name!r} ({one_line(error)})") from error
