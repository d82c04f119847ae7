"""BLEU: clipped n-gram precision with a brevity penalty (Papineni et al., 2002), by sacrebleu."""

from collections.abc import Sequence
from itertools import zip_longest

import evaluate
from sacrebleu.metrics.bleu import BLEU

from vlmmerge.metrics.module import announce, metric_info, pairs
from vlmmerge.metrics.text import tokenizer as text_tokenizer


class Bleu(evaluate.Metric):
    """`compute(predictions=[str], references=[[str]], tokenizer=..., max_order=4)`.

    Returns `bleu` of the corpus in [0, 1], which is not the mean of `per_example`: these are BLEU
    of single sentences, over the n-gram lengths that a sentence has. Cased, unless `lowercase`.
    """

    def _info(self) -> evaluate.MetricInfo:
        return metric_info(
            __doc__, Bleu.__doc__, "Post, A Call for Clarity in Reporting BLEU Scores, 2018"
        )

    def _compute(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        tokenizer: str = "13a",
        lowercase: bool = False,
        max_order: int = 4,
    ) -> dict[str, object]:
        announce(self.info, "bleu", tokenizer)
        tokenize = text_tokenizer(tokenizer, lowercase)

        def spaced(text: str) -> str:
            return " ".join(tokenize(text))

        rows = [
            (spaced(prediction), [spaced(text) for text in texts])
            for prediction, texts in pairs(predictions, references, tokenizer)
        ]
        # The text is in tokens already, which sacrebleu takes for a mistake unless forced.
        corpus = BLEU(tokenize="none", force=True, max_ngram_order=max_order)
        sentence = BLEU(
            tokenize="none", force=True, max_ngram_order=max_order, effective_order=True
        )
        streams = [list(stream) for stream in zip_longest(*(texts for _, texts in rows))]
        whole = corpus.corpus_score([prediction for prediction, _ in rows], streams)
        scores = [sentence.sentence_score(prediction, texts).score for prediction, texts in rows]
        # exp(log(100)) is a little more than 100.
        return {
            "bleu": min(1.0, whole.score / 100),
            "per_example": [min(1.0, score / 100) for score in scores],
        }
