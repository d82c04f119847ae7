"""What the metric modules have in common: their inputs, their names, and how scores go out."""

from collections.abc import Iterator, Sequence

import datasets
import evaluate

from vlmmerge.errors import TaskError
from vlmmerge.metrics.text import warn_of_script


def metric_info(
    description: str | None, usage: str | None, citation: str = ""
) -> evaluate.MetricInfo:
    """The `evaluate.MetricInfo` of a metric that compares texts with lists of references."""
    return evaluate.MetricInfo(
        description=description or "",
        citation=citation,
        inputs_description=usage or "",
        features=datasets.Features(
            {
                "predictions": datasets.Value("string"),
                "references": datasets.Sequence(datasets.Value("string")),
            }
        ),
    )


def printed_name(metric: str, tokenizer: str) -> str:
    """A metric's name as it is printed: with the tokenizer that its figures depend on."""
    return f"{metric} ({tokenizer})"


def announce(info: evaluate.MetricInfo, metric: str, tokenizer: str) -> None:
    """Put the tokenizer into the name that `evaluate` prints."""
    info.module_name = printed_name(metric, tokenizer)


def pairs(
    predictions: Sequence[str], references: Sequence[Sequence[str]], tokenizer: str | None = None
) -> Iterator[tuple[str, Sequence[str]]]:
    """Predictions with their references, checked first.

    Raises `TaskError` where there is nothing to score. Warns where `tokenizer` does not go with
    the references' script.
    """
    # evaluate gives columns that decode row by row; a slice is a list at once.
    answers, targets = predictions[:], references[:]
    if not answers:
        raise TaskError("metric: there are no predictions to score")
    if empty := [row for row, those in enumerate(targets) if not those]:
        raise TaskError(f"metric: row {empty[0]} has no reference")
    if tokenizer is not None:
        warn_of_script(targets, tokenizer)
    return zip(answers, targets, strict=True)


def scored(metric: str, scores: Sequence[float]) -> dict[str, object]:
    """What `compute` returns of a metric that is the mean over examples."""
    return {metric: sum(scores) / len(scores), "per_example": list(scores)}
