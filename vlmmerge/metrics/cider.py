"""CIDEr-D: consensus of n-grams, weighted by how rare they are (Vedantam et al., 1411.5726)."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import evaluate
import numpy as np
import numpy.typing as npt

from vlmmerge.metrics.module import announce, metric_info, pairs, scored
from vlmmerge.metrics.text import Tokenize
from vlmmerge.metrics.text import tokenizer as text_tokenizer

LONGEST = 4  # n-grams of 1..4 words
SIGMA = 6.0

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DocumentFrequencies:
    """In how many of `documents` pictures' references each n-gram stands.

    Frozen from the whole reference set, so that a subset scores the same as in the full run. An
    n-gram is a number: its place in `keys[n - 1]`, which is sorted. A key is the number of the gram
    without its last word, times 2^32, plus the number of that word. `counts` go with the keys.
    """

    documents: int
    tokenize: Tokenize
    words: dict[str, int]
    keys: tuple[Ints, ...]
    counts: tuple[Ints, ...]
    # Every candidate meets the same references: their words are numbered once.
    numbered: dict[str, Ints] = field(repr=False)

    @classmethod
    def of(cls, references: Iterable[Sequence[str]], tokenize: Tokenize) -> "DocumentFrequencies":
        """Count over all references: a list of captions a picture."""
        pictures = [list(captions) for captions in references]
        owners = _repeat([len(captions) for captions in pictures])
        words: dict[str, int] = {}
        numbered: dict[str, Ints] = {}
        texts = [text for captions in pictures for text in captions]
        for text in texts:
            if text not in numbered:
                numbered[text] = _array(words.setdefault(w, len(words)) for w in tokenize(text))
        keys: list[Ints] = []
        counts: list[Ints] = []

        def number(_: int, found: Ints) -> Ints:
            unique, numbers = np.unique(found, return_inverse=True)
            keys.append(unique)
            return numbers

        for rows, numbers in _grams([numbered[text] for text in texts], number):
            size = len(keys[-1])
            once = np.unique(owners[rows] * size + numbers) % max(1, size)
            counts.append(np.bincount(once, minlength=size))
        return cls(len(pictures), tokenize, words, tuple(keys), tuple(counts), numbered)

    def numbers(self, texts: Iterable[str]) -> list[Ints]:
        """The words of each text by number; words of no reference are numbered on from there."""
        others: dict[str, int] = {}

        def number(word: str) -> int:
            known = self.words.get(word)
            if known is not None:
                return known
            return others.setdefault(word, len(self.words) + len(others))

        return [
            self.numbered[text]
            if text in self.numbered
            else _array(map(number, self.tokenize(text)))
            for text in texts
        ]


def cider_d(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    frequencies: DocumentFrequencies,
) -> Floats:
    """10 / m sum_j mean_n exp(-(l_c - l_j)^2 / 2 sigma^2) min(g_c, g_j) g_j / |g_c| |g_j|.

    One figure a prediction; g are tf-idf vectors of n-grams, l lengths in bigrams, m the number of
    references.
    """
    owners = _repeat([len(captions) for captions in references])
    texts = [*predictions, *(text for captions in references for text in captions)]
    captions = frequencies.numbers(texts)
    everything, candidates = len(texts), len(predictions)
    rarest = math.log(frequencies.documents)
    similar = np.zeros(len(owners))

    def number(n: int, found: Ints) -> Ints:
        keys = frequencies.keys[n]
        places = np.searchsorted(keys, found)
        known = places < len(keys)
        known[known] = keys[places[known]] == found[known]
        places[~known] = len(keys) + np.unique(found[~known], return_inverse=True)[1]
        return places

    for n, (rows, numbers) in enumerate(_grams(captions, number)):
        if not len(rows):
            continue
        counted = frequencies.counts[n]
        size = int(numbers.max()) + 1
        entries, times = np.unique(rows * size + numbers, return_counts=True)
        row, gram = entries // size, entries % size
        known = gram < len(counted)
        rarity = np.full(len(gram), rarest)
        rarity[known] -= np.log(counted[gram[known]])
        weight = times * rarity
        # Grams of no reference are numbered by who else is scored, so that their squares are added
        # as integers: a sum in another order would differ in its last bit.
        squares = _sums(row[known], weight[known] ** 2, everything)
        squares += rarest**2 * _sums(row[~known], times[~known] ** 2, everything)
        norms = np.sqrt(squares)

        theirs = np.searchsorted(row, candidates)  # rows are sorted, predictions come first
        reference = row[theirs:] - candidates
        wanted = owners[reference] * size + gram[theirs:]
        mine = np.searchsorted(entries[:theirs], wanted)
        met = mine < theirs
        met[met] = entries[mine[met]] == wanted[met]
        x, y = weight[mine[met]], weight[theirs:][met]
        dots = _sums(reference[met], np.minimum(x, y) * y, len(owners))
        product = norms[owners] * norms[candidates:]
        similar += np.divide(dots, product, out=np.zeros_like(dots), where=product > 0)

    lengths = np.maximum(0, np.array([len(caption) for caption in captions]) - 1)
    apart = lengths[owners] - lengths[candidates:]
    similar *= np.exp(-(apart**2) / (2 * SIGMA**2))
    shares = np.array([LONGEST * len(captions) for captions in references])
    scores: Floats = 10.0 * _sums(owners, similar, candidates) / shares
    return scores


def _grams(
    captions: Sequence[Ints], number: Callable[[int, Ints], Ints]
) -> Iterator[tuple[Ints, Ints]]:
    """Rows and numbers of all grams of 1, 2, .. `LONGEST` words; `number` turns keys into numbers.

    Both are of shape (grams,), a pair for each length.
    """
    words = np.concatenate([_array([]), *captions])
    rows = _repeat([len(caption) for caption in captions])
    starts = np.zeros_like(words)  # by position: the number of the gram one word shorter
    for n in range(LONGEST):
        size = max(0, len(words) - n)
        whole = np.flatnonzero(rows[:size] == rows[n:])
        numbers = number(n, (starts[whole] << 32) + words[whole + n])
        yield rows[whole], numbers
        starts[whole] = numbers


def _sums(rows: Ints, values: npt.NDArray[Any], size: int) -> Floats:
    """Values added up by row, in float64 also where there are none."""
    return np.bincount(rows, values, size).astype(np.float64)


def _repeat(lengths: Sequence[int]) -> Ints:
    return np.repeat(np.arange(len(lengths)), lengths)


def _array(values: Iterable[int]) -> Ints:
    return np.fromiter(values, np.int64)


class Cider(evaluate.Metric):
    """`compute(predictions=[str], references=[[str]], tokenizer=..., frequencies=...)`.

    Returns `cider` (the mean, times 10 as published) and `per_example`. `frequencies`: a
    `DocumentFrequencies`, which brings its own tokenizer, or the whole reference set, of which
    `references` are a part. Without it they are counted over the references given; one picture
    alone then scores 0. `lowercase`: as COCO has it.
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
        lowercase: bool = True,
        frequencies: DocumentFrequencies | Sequence[Sequence[str]] | None = None,
    ) -> dict[str, object]:
        announce(self.info, "cider", tokenizer)
        answers, targets = zip(*pairs(predictions, references, tokenizer), strict=True)
        # By shape, not by class: evaluate.load makes a copy of this module with a class of its own.
        if frequencies is None or isinstance(frequencies, Sequence):
            tokenize = text_tokenizer(tokenizer, lowercase)
            frequencies = DocumentFrequencies.of(frequencies or targets, tokenize)
        return scored("cider", cider_d(answers, targets, frequencies).tolist())
