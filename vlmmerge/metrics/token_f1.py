"""Token F1: the words that answer and reference share (Rajpurkar et al., 1606.05250)."""

from collections import Counter
from collections.abc import Sequence

import evaluate

from vlmmerge.metrics.module import announce, metric_info, pairs, scored
from vlmmerge.metrics.text import fold, squad_fold
from vlmmerge.metrics.text import tokenizer as text_tokenizer


def f1(prediction: Sequence[str], target: Sequence[str]) -> float:
    """2 P R / (P + R) of shared tokens, counted as often as in both; 1 where neither has any."""
    if not prediction or not target:
        return float(not prediction and not target)
    shared = (Counter(prediction) & Counter(target)).total()
    return 2 * shared / (len(prediction) + len(target))


class TokenF1(evaluate.Metric):
    """`compute(predictions=[str], references=[[str]], tokenizer=..., nfkc=False)`.

    Returns `token_f1` in [0, 1], the best over references, and `per_example`. Case, punctuation and
    English articles do not count. `nfkc` folds full-width forms and drops CJK punctuation.
    """

    def _info(self) -> evaluate.MetricInfo:
        return metric_info(__doc__, TokenF1.__doc__, "Rajpurkar et al., SQuAD, 2016")

    def _compute(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        tokenizer: str = "whitespace",
        nfkc: bool = False,
    ) -> dict[str, object]:
        announce(self.info, "token_f1", tokenizer)
        tokenize = text_tokenizer(tokenizer)

        def tokens(text: str) -> Sequence[str]:
            return tokenize(squad_fold(fold(text) if nfkc else text))

        scores = [
            max(f1(tokens(prediction), tokens(target)) for target in targets)
            for prediction, targets in pairs(predictions, references, tokenizer)
        ]
        return scored("token_f1", scores)
