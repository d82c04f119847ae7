"""Judge: the metrics of one task over one split, ready to score answers to any of its rows."""

import importlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from vlmmerge.config import one_line
from vlmmerge.errors import TaskError
from vlmmerge.scoring.language import LanguageCheck, writes_spaces
from vlmmerge.scoring.rater import JUDGE, Rater
from vlmmerge.scoring.statistics import known
from vlmmerge.tasks import AnyTask, LmEvalTask, Task
from vlmmerge.tasks.example import Picture

# Ours, by name; any other name is one of `evaluate`'s own modules or a path.
SHIPPED = {
    "anls": "Anls",
    "bleu": "Bleu",
    "chrf": "Chrf",
    "cider": "Cider",
    "clip_score": "ClipScore",
    "coco_rouge_l": "CocoRougeL",
    "exact_match": "ExactMatch",
    "relaxed_accuracy": "RelaxedAccuracy",
    "rouge_l": "RougeL",
    "token_f1": "TokenF1",
    "vqa_accuracy": "VqaAccuracy",
}
# Those whose figures depend on where one word ends and the next begins.
TOKENIZED = frozenset(["bleu", "cider", "coco_rouge_l", "rouge_l", "token_f1"])


@dataclass(frozen=True)
class Verdict:
    """Per-row scores of the task's metric, the means of its further metrics, and odd answers.

    `scores`: per-row scores of every metric that gives any. `words`: what a plugged-in judge said
    of each row.
    """

    per_example: tuple[float, ...]
    metrics: dict[str, float]
    empty: int
    wrong_language: int
    scores: dict[str, tuple[float, ...]] = field(default_factory=dict)
    words: tuple[str, ...] = ()

    @property
    def mean(self) -> float:
        scores = known(self.per_example)
        return sum(scores) / len(scores)


class Judge:
    """Scores answers. What a metric needs of the whole reference set is counted once, here."""

    def __init__(self, task: Task, references: Sequence[Sequence[str]]) -> None:
        self._task = task
        names = metric_names(task)
        self._metrics = {
            name: plugged_in(task) if name == JUDGE else load_metric(name, f"tasks.{task.name}")
            for name in names
        }
        self._options = {name: self._options_of(name, references) for name in names}
        self._language = LanguageCheck.of(task.language) if task.language else None

    def score(
        self,
        answers: Sequence[str],
        references: Sequence[Sequence[str]],
        further: bool = True,
        pictures: Sequence[Sequence[Picture]] = (),
        raw: Sequence[str] | None = None,
        questions: Sequence[str] = (),
    ) -> Verdict:
        """Judge `answers` against the `references`, or `pictures`, of the same rows.

        Without `further` by the task's main metric alone. `raw`: the texts that the answers were
        read out of; whether one is empty or in another language is seen in these. `questions`: what
        was asked, for a judge that is plugged in.
        """
        said = answers if raw is None else raw
        wrong = [
            self._language is not None and self._language.is_wrong(text, targets)
            for text, targets in zip(said, references, strict=True)
        ]
        judged = [
            "" if out and self._task.blank_wrong_language else answer
            for answer, out in zip(answers, wrong, strict=True)
        ]
        results = {
            name: metric.compute(
                predictions=judged,
                **self._targets(name, references, pictures, questions),
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
        return Verdict(
            tuple(float(score) for score in main["per_example"]),
            {name: float(result[name]) for name, result in results.items()}
            | {f"{name}_unread": r["unread"] for name, r in results.items() if name == JUDGE},
            sum(not text for text in said),
            sum(wrong),
            {
                name: tuple(float(score) for score in result["per_example"])
                for name, result in results.items()
                if "per_example" in result
            },
            tuple(results[JUDGE]["words"]) if JUDGE in results else (),
        )

    def _targets(
        self,
        name: str,
        references: Sequence[Sequence[str]],
        pictures: Sequence[Sequence[Picture]],
        questions: Sequence[str],
    ) -> dict[str, Any]:
        if name == JUDGE:
            return {"references": references, "questions": questions}
        if name != "clip_score":
            return {"references": [list(row) for row in references]}
        if len(pictures) < len(references) or not all(pictures):
            raise TaskError(f"tasks.{self._task.name}: clip_score needs a picture in every row")
        return {"images": [row[0].image for row in pictures]}

    def _options_of(self, name: str, references: Sequence[Sequence[str]]) -> dict[str, Any]:
        if name == JUDGE:
            return {}
        options = metric_options(self._task, name)
        if name == "cider" and "frequencies" not in options:
            from vlmmerge.metrics.cider import DocumentFrequencies
            from vlmmerge.metrics.text import tokenizer

            tokenize = tokenizer(options["tokenizer"], options.get("lowercase", True))
            options["frequencies"] = DocumentFrequencies.of(references, tokenize)
        return options


def metric_options(task: Task, name: str) -> dict[str, Any]:
    """What `compute` of one of a task's metrics is given besides texts.

    `task.metric_options` are the main metric's, and by name any metric's. The tokenizer is the
    task's own, else characters where words have no spaces.
    """
    named = (task.metric, *task.metrics)
    given = task.metric_options
    options = {k: v for k, v in given.items() if k not in named} if name == task.metric else {}
    options |= given.get(name, {})
    if name in TOKENIZED:
        spaced = "whitespace" if writes_spaces(task.language) else "char"
        options.setdefault("tokenizer", task.tokenizer or spaced)
    return options


def metric_names(task: Task) -> dict[str, str]:
    """A task's metrics as they are printed: with the tokenizer that their figures depend on."""
    return {
        name: f"{name} ({metric_options(task, name)['tokenizer']})" if name in TOKENIZED else name
        for name in (task.metric, *task.metrics)
    }


def check_judges(tasks: Iterable[AnyTask]) -> None:
    """Refuse unknown metrics, and options that they do not take, before a model is loaded."""
    from PIL import Image

    references = [("a",), ("b",)]
    picture = Picture.of(Image.new("RGB", (32, 32)))
    for task in tasks:
        if isinstance(task, LmEvalTask):
            _ = task.fingerprint, task.filtered_by  # loads it, and checks it
            continue
        if task.kind == "perplexity":  # has no answers to judge
            continue
        names = [name for name in (task.metric, *task.metrics) if name != JUDGE]
        if JUDGE in (task.metric, *task.metrics):
            plugged_in(task)
            if not names:
                continue
            # It is not asked about nothing.
            options = {name: metric_options(task, name) for name in names}
            rest = tuple(names[1:])
            task = replace(task, metric=names[0], metrics=rest, metric_options=options)
        try:
            Judge(task, references).score(["a", "b"], references, pictures=[[picture]] * 2)
        except (TypeError, ValueError, ArithmeticError) as error:
            raise TaskError(f"tasks.{task.name}.metric_options: {one_line(error)}") from error


def plugged_in(task: Task) -> Rater:
    """The judge that a task describes. Raises `ConfigError`."""
    return Rater.of(metric_options(task, JUDGE), f"tasks.{task.name}.{JUDGE}")


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
