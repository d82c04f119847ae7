"""ANLS: how few letters must change to make the answer (Biten et al., 1905.13648)."""

from collections.abc import Sequence

import evaluate

from vlmmerge.metrics.module import metric_info, pairs, scored
from vlmmerge.metrics.text import fold


def similarity(prediction: str, target: str) -> float:
    """1 - NL where NL < 0.5, else 0; NL is the edit distance over the longer length.

    A distance of exactly half the length is 0 by the paper's definition.
    """
    longest = max(len(prediction), len(target))
    if not longest:
        return 1.0
    if 2 * abs(len(prediction) - len(target)) >= longest:  # so many letters are missing at least
        return 0.0
    distance = edits(prediction, target)
    return 1 - distance / longest if 2 * distance < longest else 0.0


def edits(one: str, other: str) -> int:
    """The Levenshtein distance in characters."""
    row = list(range(len(other) + 1))
    for i, mine in enumerate(one, 1):
        corner, row[0] = row[0], i
        for j, theirs in enumerate(other, 1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (mine != theirs))
    return row[-1]


class Anls(evaluate.Metric):
    """`compute(predictions=[str], references=[[str]], nfkc=False)`.

    Returns `anls` in [0, 1], the best over references, and `per_example`. Case and repeated spaces
    do not count. `nfkc` folds full-width forms and drops CJK punctuation. `tokenizer` is taken and
    not used: every metric has it.
    """

    def _info(self) -> evaluate.MetricInfo:
        return metric_info(
            __doc__, Anls.__doc__, "Biten et al., Scene Text Visual Question Answering, 2019"
        )

    def _compute(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        tokenizer: str | None = None,
        nfkc: bool = False,
    ) -> dict[str, object]:
        def alike(text: str) -> str:
            return " ".join((fold(text) if nfkc else text).lower().split())

        scores = [
            max(similarity(alike(prediction), alike(target)) for target in targets)
            for prediction, targets in pairs(predictions, references)
        ]
        return scored("anls", scores)
