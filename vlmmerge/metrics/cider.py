"""CIDEr-D: consensus of n-grams, weighted by how rare they are (Vedantam et al., 1411.5726)."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import evaluate

from vlmmerge.metrics.module import metric_info
from vlmmerge.metrics.text import Tokenize
from vlmmerge.metrics.text import tokenizer as text_tokenizer

LONGEST = 4  # n-grams of 1..4 words
SIGMA = 6.0

NGrams = Counter[tuple[str, ...]]
Vector = dict[tuple[str, ...], float]


@dataclass(frozen=True)
class Caption:
    """A caption's tf-idf vectors by n-gram length, their norms, and its length in bigrams."""

    vectors: list[Vector]
    norms: list[float]
    length: int


@dataclass(frozen=True)
class DocumentFrequencies:
    """In how many of `documents` pictures' references each n-gram stands.

    Frozen from the whole reference set, so that a subset scores the same as in the full run.
    """

    counts: NGrams
    documents: int
    tokenize: Tokenize
    _references: dict[str, Caption] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, references: Iterable[Sequence[str]], tokenize: Tokenize) -> "DocumentFrequencies":
        counts: NGrams = Counter()
        documents = 0
        for captions in references:
            documents += 1
            counts.update({gram for caption in captions for gram in ngrams(tokenize(caption))})
        return cls(counts, documents, tokenize)

    def reference(self, text: str) -> Caption:
        """A reference's vectors, which are computed once: every candidate meets the same ones."""
        if text not in self._references:
            self._references[text] = self.caption(text)
        return self._references[text]

    def caption(self, text: str) -> Caption:
        """The vectors of a caption."""
        grams = ngrams(self.tokenize(text))
        vectors: list[Vector] = [{} for _ in range(LONGEST)]
        for gram, count in grams.items():
            rarity = math.log(self.documents) - math.log(max(1, self.counts[gram]))
            vectors[len(gram) - 1][gram] = count * rarity
        norms = [math.sqrt(sum(x * x for x in v.values())) for v in vectors]
        bigrams = sum(count for gram, count in grams.items() if len(gram) == 2)
        return Caption(vectors, norms, bigrams)


def ngrams(words: Sequence[str]) -> NGrams:
    """All n-grams of 1..LONGEST words with their counts."""
    return Counter(
        tuple(words[i : i + n]) for n in range(1, LONGEST + 1) for i in range(len(words) - n + 1)
    )


def cider_d(prediction: str, references: Sequence[str], frequencies: DocumentFrequencies) -> float:
    """10 / m sum_j mean_n exp(-(l_c - l_j)^2 / 2 sigma^2) min(g_c, g_j) g_j / |g_c| |g_j|."""
    candidate = frequencies.caption(prediction)
    total = 0.0
    for other in map(frequencies.reference, references):
        penalty = math.exp(-((candidate.length - other.length) ** 2) / (2 * SIGMA**2))
        for n in range(LONGEST):
            theirs = other.vectors[n]
            dot = 0.0
            for gram, x in candidate.vectors[n].items():
                if (y := theirs.get(gram)) is not None:
                    dot += (x if x < y else y) * y
            if dot:  # then neither norm is 0
                total += penalty * dot / (candidate.norms[n] * other.norms[n])
    return 10.0 * total / (LONGEST * len(references))


class Cider(evaluate.Metric):
    """`compute(predictions=[str], references=[[str]], tokenizer=..., frequencies=...)`.

    Returns `cider` (the mean, times 10 as published) and `per_example`. Without `frequencies` they
    are counted over the references given; one picture alone then scores 0. `frequencies` bring
    their own tokenizer.
    """

    def _info(self) -> evaluate.MetricInfo:
        return metric_info(
            __doc__,
            Cider.__doc__,
            "Vedantam et al., CIDEr: Consensus-based Image Description Evaluation, 2015",
        )

    def _compute(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        tokenizer: str = "whitespace",
        frequencies: DocumentFrequencies | None = None,
    ) -> dict[str, object]:
        if frequencies is None:
            frequencies = DocumentFrequencies.of(references, text_tokenizer(tokenizer))
        scores = [
            cider_d(prediction, captions, frequencies)
            for prediction, captions in zip(predictions, references, strict=True)
        ]
        return {"cider": sum(scores) / len(scores), "per_example": scores}
