"""chrF: F-score of character n-grams (Popovic, 2015), by sacrebleu. Needs no words."""

from collections.abc import Sequence
from itertools import zip_longest

import evaluate
from sacrebleu.metrics.chrf import CHRF

from vlmmerge.metrics.module import metric_info, pairs


class Chrf(evaluate.Metric):
    """`compute(predictions=[str], references=[[str]], char_order=6, word_order=0, beta=2)`.

    Returns `chrf` of the corpus in [0, 1], which is not the mean of `per_example`: these are of
    single sentences. `word_order=2` gives chrF++. Cased, unless `lowercase`. `tokenizer` is taken
    and not used: every metric has it.
    """

    def _info(self) -> evaluate.MetricInfo:
        return metric_info(
            __doc__,
            Chrf.__doc__,
            "Popovic, chrF: character n-gram F-score for automatic MT evaluation, 2015",
        )

    def _compute(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        tokenizer: str | None = None,
        lowercase: bool = False,
        char_order: int = 6,
        word_order: int = 0,
        beta: int = 2,
    ) -> dict[str, object]:
        rows = list(pairs(predictions, references))
        chrf = CHRF(char_order=char_order, word_order=word_order, beta=beta, lowercase=lowercase)
        streams = [list(stream) for stream in zip_longest(*(texts for _, texts in rows))]
        whole = chrf.corpus_score([prediction for prediction, _ in rows], streams)
        scores = [chrf.sentence_score(prediction, list(texts)).score for prediction, texts in rows]
        return {"chrf": whole.score / 100, "per_example": [score / 100 for score in scores]}
