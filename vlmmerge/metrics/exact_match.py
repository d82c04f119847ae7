"""Exact match: the answer is one of the references, outer spaces aside."""

from collections.abc import Sequence

import evaluate

from vlmmerge.metrics.module import metric_info


class ExactMatch(evaluate.Metric):
    """`compute(predictions=[str], references=[[str]], ignore_case=False)`.

    Returns `exact_match` in [0, 1] and `per_example`. `tokenizer` is taken and not used: every
    metric has it.
    """

    def _info(self) -> evaluate.MetricInfo:
        return metric_info(__doc__, ExactMatch.__doc__)

    def _compute(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        tokenizer: str | None = None,
        ignore_case: bool = False,
    ) -> dict[str, object]:
        def fold(text: str) -> str:
            return text.strip().casefold() if ignore_case else text.strip()

        scores = [
            float(fold(prediction) in {fold(target) for target in targets})
            for prediction, targets in zip(predictions, references, strict=True)
        ]
        return {"exact_match": sum(scores) / len(scores), "per_example": scores}
