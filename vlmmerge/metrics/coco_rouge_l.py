"""ROUGE-L as COCO has it: recall and precision each of the best reference, beta 1.2."""

from collections.abc import Sequence

import evaluate

from vlmmerge.metrics.module import announce, metric_info, pairs, scored
from vlmmerge.metrics.text import tokenizer as text_tokenizer

BETA = 1.2  # recall counts more than precision


def f_score(prediction: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """(1 + b^2) P R / (R + b^2 P) with P and R of the longest common subsequence.

    P and R are each the largest over references, which need not be the same one.
    """
    if not prediction:
        return 0.0
    common = [longest_common(prediction, words) for words in references]
    precision = max(common) / len(prediction)
    recall = max(
        (n / len(words) for n, words in zip(common, references, strict=True) if words),
        default=0.0,
    )
    if not precision:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def longest_common(one: Sequence[str], other: Sequence[str]) -> int:
    """The length of the longest common subsequence.

    A bit per word of `one`, all updated at once by an addition (Hyyro, 2004).
    """
    places: dict[str, int] = {}
    for i, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << i
    every = (1 << len(one)) - 1
    row = every  # a zero bit where the subsequence grows
    for word in other:
        matched = row & places.get(word, 0)
        row = ((row + matched) | (row - matched)) & every
    return len(one) - row.bit_count()


class CocoRougeL(evaluate.Metric):
    """`compute(predictions=[str], references=[[str]], tokenizer=..., lowercase=True)`.

    Returns `coco_rouge_l` in [0, 1] and `per_example`.
    """

    def _info(self) -> evaluate.MetricInfo:
        return metric_info(
            __doc__,
            CocoRougeL.__doc__,
            "Chen et al., Microsoft COCO Captions: Data Collection and Evaluation Server, 2015",
        )

    def _compute(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        tokenizer: str = "whitespace",
        lowercase: bool = True,
    ) -> dict[str, object]:
        announce(self.info, "coco_rouge_l", tokenizer)
        tokenize = text_tokenizer(tokenizer, lowercase)
        scores = [
            f_score(tokenize(prediction), [tokenize(text) for text in texts])
            for prediction, texts in pairs(predictions, references, tokenizer)
        ]
        return scored("coco_rouge_l", scores)
