"""Relaxed accuracy: numbers may be off by 5 %, other answers must match (Masry et al., 2203.10244).

Numbers are compared as decimals, so that 1.05 is within 5 % of 1, which in binary it is not.
"""

import re
from collections.abc import Sequence
from decimal import Decimal

import evaluate

from vlmmerge.metrics.module import metric_info, pairs, scored
from vlmmerge.metrics.text import fold

_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d{1,3})?)(%?)", re.IGNORECASE | re.ASCII)


def number(text: str) -> Decimal | None:
    """The number that a text is, `5%` being 0.05; None where it is more or less than a number."""
    found = _NUMBER.fullmatch(text.strip())
    if found is None:
        return None
    return Decimal(found[1]) / 100 if found[2] else Decimal(found[1])


def close(prediction: str, target: str, tolerance: Decimal) -> bool:
    """|p - t| <= tolerance |t| for two numbers, else equality, case aside."""
    found, wanted = number(prediction), number(target)
    if found is None or wanted is None:
        return prediction.strip().lower() == target.strip().lower()
    return abs(found - wanted) <= tolerance * abs(wanted)


class RelaxedAccuracy(evaluate.Metric):
    """`compute(predictions=[str], references=[[str]], tolerance=0.05, nfkc=False)`.

    Returns `relaxed_accuracy` in [0, 1] and `per_example`; one close reference is enough. A number
    must be the whole answer, without thousands separators, as in the published script. `nfkc` folds
    full-width digits and drops CJK punctuation. `tokenizer` is taken and not used: every metric has
    it.
    """

    def _info(self) -> evaluate.MetricInfo:
        return metric_info(
            __doc__, RelaxedAccuracy.__doc__, "Masry et al., ChartQA, 2022; Methani et al., 2020"
        )

    def _compute(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        tokenizer: str | None = None,
        tolerance: float = 0.05,
        nfkc: bool = False,
    ) -> dict[str, object]:
        def alike(text: str) -> str:
            return fold(text) if nfkc else text

        allowed = Decimal(str(tolerance))
        scores = [
            float(any(close(alike(prediction), alike(target), allowed) for target in targets))
            for prediction, targets in pairs(predictions, references)
        ]
        return scored("relaxed_accuracy", scores)
