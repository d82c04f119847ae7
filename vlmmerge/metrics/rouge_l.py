"""ROUGE-L: F1 of the longest common subsequence, the best over references (Lin, 2004)."""

from collections.abc import Sequence

import evaluate
from rouge_score import rouge_scorer, tokenizers

from vlmmerge.metrics.module import announce, metric_info, pairs, scored
from vlmmerge.metrics.text import Tokenize
from vlmmerge.metrics.text import tokenizer as text_tokenizer


class _Named(tokenizers.Tokenizer):
    """A tokenizer of ours as rouge-score wants it."""

    def __init__(self, tokenize: Tokenize) -> None:
        self._tokenize = tokenize

    def tokenize(self, text: str) -> Sequence[str]:
        return self._tokenize(text)


class RougeL(evaluate.Metric):
    """`compute(predictions=[str], references=[[str]], tokenizer=..., lowercase=True)`.

    Returns `rouge_l` in [0, 1] and `per_example`.
    """

    def _info(self) -> evaluate.MetricInfo:
        return metric_info(
            __doc__,
            RougeL.__doc__,
            "Lin, ROUGE: A Package for Automatic Evaluation of Summaries, 2004",
        )

    def _compute(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        tokenizer: str = "whitespace",
        lowercase: bool = True,
    ) -> dict[str, object]:
        announce(self.info, "rouge_l", tokenizer)
        tokenize = _Named(text_tokenizer(tokenizer, lowercase))
        scorer = rouge_scorer.RougeScorer(["rougeL"], tokenizer=tokenize)
        scores = [
            float(scorer.score_multi(texts, prediction)["rougeL"].fmeasure)
            for prediction, texts in pairs(predictions, references, tokenizer)
        ]
        return scored("rouge_l", scores)
