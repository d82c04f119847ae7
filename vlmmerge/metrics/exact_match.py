"""Exact match: the answer is one of the references, outer spaces aside."""

from collections.abc import Sequence

import evaluate

from vlmmerge.metrics.module import metric_info, pairs, scored
from vlmmerge.metrics.text import fold


class ExactMatch(evaluate.Metric):
    """`compute(predictions=[str], references=[[str]], ignore_case=False, nfkc=False)`.

    Returns `exact_match` in [0, 1] and `per_example`. `nfkc` folds full-width forms and drops CJK
    punctuation. `tokenizer` is taken and not used: every metric has it.
    """

    def _info(self) -> evaluate.MetricInfo:
        return metric_info(__doc__, ExactMatch.__doc__)

    def _compute(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        tokenizer: str | None = None,
        ignore_case: bool = False,
        nfkc: bool = False,
    ) -> dict[str, object]:
        def alike(text: str) -> str:
            text = (fold(text) if nfkc else text).strip()
            return text.casefold() if ignore_case else text

        scores = [
            float(alike(prediction) in {alike(target) for target in targets})
            for prediction, targets in pairs(predictions, references)
        ]
        return scored("exact_match", scores)
