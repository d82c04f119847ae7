"""CIDEr-D: against a plain reference, and frozen document frequencies."""

import math
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmmerge.metrics.cider import DocumentFrequencies, cider_d
from vlmmerge.metrics.text import tokenizer
from vlmmerge.scoring.judge import load_metric

WORDS = st.sampled_from(["a", "b", "c", "d", "e"])
CAPTION = st.lists(WORDS, max_size=7).map(" ".join)
SETS = st.lists(
    st.tuples(CAPTION, st.lists(CAPTION, min_size=1, max_size=3)), min_size=1, max_size=4
)
WHITESPACE = tokenizer("whitespace")


def frozen(references: Sequence[Sequence[str]]) -> DocumentFrequencies:
    return DocumentFrequencies.of(references, WHITESPACE)


def plainly(prediction: str, references: Sequence[str], corpus: Sequence[Sequence[str]]) -> float:
    """The paper's formula with dictionaries."""

    def grams(text: str, n: int) -> Counter[tuple[str, ...]]:
        words = text.split()
        return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))

    def weights(text: str, n: int) -> dict[tuple[str, ...], float]:
        found = {}
        for gram, count in grams(text, n).items():
            pictures = sum(any(gram in grams(t, n) for t in texts) for texts in corpus)
            found[gram] = count * math.log(len(corpus) / max(1, pictures))
        return found

    total = 0.0
    for reference in references:
        apart = grams(prediction, 2).total() - grams(reference, 2).total()
        for n in (1, 2, 3, 4):
            mine, theirs = weights(prediction, n), weights(reference, n)
            dot = sum(min(mine[g], theirs[g]) * theirs[g] for g in mine.keys() & theirs.keys())
            length = math.hypot(*mine.values()) * math.hypot(*theirs.values())
            if length:
                total += dot / length * math.exp(-(apart**2) / 72) / 4
    return 10 * total / len(references)


@settings(max_examples=50, deadline=None)
@given(SETS, SETS)
def test_it_is_the_formula(
    sets: list[tuple[str, list[str]]], others: list[tuple[str, list[str]]]
) -> None:
    """Also where the frozen set is another one than the references that are scored."""
    predictions, references = [p for p, _ in sets], [r for _, r in sets]
    for corpus in (references, [r for _, r in others]):
        expected = [plainly(p, r, corpus) for p, r in sets]
        assert cider_d(predictions, references, frozen(corpus)) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(SETS)
def test_a_subset_scores_to_the_bit_as_in_the_full_run(sets: list[tuple[str, list[str]]]) -> None:
    references = [r for _, r in sets]
    frequencies = frozen(references)
    whole = cider_d([p for p, _ in sets], references, frequencies).tolist()
    alone = [cider_d([p], [r], frequencies).item() for p, r in reversed(sets)]
    assert alone[::-1] == whole
    assert all(0 <= score <= 10 + 1e-9 for score in whole)


def test_frequencies_may_be_given_as_the_whole_reference_set() -> None:
    predictions, references = ["a red cat", "a blue dog"], [["the red cat"], ["a blue dog"]]
    metric = load_metric("cider", "test")
    whole = metric.compute(predictions=predictions, references=references)["per_example"]
    for given_as in (references, frozen(references)):
        one = metric.compute(
            predictions=predictions[1:], references=references[1:], frequencies=given_as
        )
        assert one["per_example"] == whole[1:]
    assert whole[1] > 0


def test_case_does_not_count_unless_asked() -> None:
    metric = load_metric("cider", "test")
    texts = {"predictions": ["A Cat", "b"], "references": [["a cat"], ["b"]]}
    assert metric.compute(**texts)["per_example"][0] > 0
    assert metric.compute(**texts, lowercase=False)["per_example"][0] == 0


def test_japanese_needs_characters_or_mecab() -> None:
    answers = ["草の上に鳥居があります", "海のそばに赤ちょうちんがあります"]
    references = [["草の上に大きな鳥居があります"], ["海のそばに小さな赤ちょうちんがあります"]]
    texts = {"predictions": answers, "references": references}
    compute = load_metric("cider", "test").compute
    with pytest.warns(UserWarning, match="without spaces"):
        assert compute(**texts, tokenizer="whitespace")["cider"] == 0.0
    assert compute(**texts, tokenizer="char")["cider"] > 3
    assert compute(**texts, tokenizer="mecab")["cider"] > 3
