"""What holds of every metric, for any text: ranges, identity, order, subsets."""

from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmmerge.metrics.anls import edits
from vlmmerge.metrics.coco_rouge_l import longest_common
from vlmmerge.scoring.judge import load_metric

# Of single examples; the aggregates of BLEU and chrF are no means.
NAMES = "anls bleu chrf coco_rouge_l exact_match relaxed_accuracy rouge_l token_f1 vqa_accuracy"
MEANS = [name for name in NAMES.split() if name not in ("bleu", "chrf")]
TEXT = st.text("ab 1.%-あ鳥", max_size=8)
ROWS = st.lists(st.tuples(TEXT, st.lists(TEXT, min_size=1, max_size=3)), min_size=1, max_size=4)


@cache
def metric(name: str) -> Any:
    return load_metric(name, "test")


def each(name: str, rows: list[tuple[str, list[str]]]) -> list[float]:
    found = metric(name).compute(predictions=[p for p, _ in rows], references=[r for _, r in rows])
    if name in MEANS:
        assert found[name] == pytest.approx(sum(found["per_example"]) / len(rows))
    scores: list[float] = found["per_example"]
    return scores


@pytest.mark.filterwarnings("ignore:the references are")
@pytest.mark.parametrize("name", NAMES.split())
def test_of_any_text(name: str) -> None:
    @settings(max_examples=15, deadline=None)  # evaluate takes milliseconds a call
    @given(ROWS)
    def check(rows: list[tuple[str, list[str]]]) -> None:
        found = each(name, rows)
        assert all(0 <= score <= 1 for score in found)
        assert each(name, rows[::-1]) == found[::-1]
        assert each(name, rows[:1]) == found[:1]
        reordered = [(prediction, references[::-1]) for prediction, references in rows]
        assert each(name, reordered) == pytest.approx(found)

    check()


@pytest.mark.parametrize("name", NAMES.split())
@pytest.mark.parametrize("text", ["a red cat on the mat", "12.5%", "two"])
def test_the_reference_itself_is_best(name: str, text: str) -> None:
    assert each(name, [(text, ["another thing", text])]) == pytest.approx([1.0])
    assert each(name, [("zzz", [text])])[0] < 0.2


@given(st.text("abc", max_size=9), st.text("abc", max_size=9))
def test_lengths_in_common(one: str, other: str) -> None:
    """The longest common subsequence and the edit distance, by their recursions."""

    @cache
    def common(i: int, j: int) -> int:
        if not i or not j:
            return 0
        if one[i - 1] == other[j - 1]:
            return common(i - 1, j - 1) + 1
        return max(common(i - 1, j), common(i, j - 1))

    @cache
    def distance(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        changed = distance(i - 1, j - 1) + (one[i - 1] != other[j - 1])
        return min(distance(i - 1, j) + 1, distance(i, j - 1) + 1, changed)

    assert longest_common(one, other) == common(len(one), len(other))
    assert edits(one, other) == distance(len(one), len(other))


@settings(max_examples=40, deadline=None)
@given(st.integers(-10_000, 10_000), st.integers(0, 100), st.booleans())
def test_relaxed_accuracy_is_within_five_hundredths(
    target: int, hundredths: int, below: bool
) -> None:
    """Exactly: t + t k / 1000 is right where k <= 50, whatever binary makes of it."""
    off = target * hundredths * (-1 if below else 1)
    sign = "-" if target * 1000 + off < 0 else ""
    whole, rest = divmod(abs(target * 1000 + off), 1000)
    found = each("relaxed_accuracy", [(f"{sign}{whole}.{rest:03d}", [str(target)])])
    assert found == [float(hundredths <= 50 or not target)]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["cat", "Dog.", "the cat", "2", "two"]), min_size=10, max_size=10))
def test_vqa_leaves_one_out_by_place(answers: list[str]) -> None:
    """min(1, others that agree / 3), averaged over the ten annotators."""
    same = sum(answer in ("2", "two") for answer in answers)
    out = (same * min(1, (same - 1) / 3) if same else 0) + (10 - same) * min(1, same / 3)
    assert each("vqa_accuracy", [("two", answers)]) == pytest.approx([out / 10])


def test_vqa_with_fewer_answers_takes_any() -> None:
    assert each("vqa_accuracy", [("神社", ["鳥居", "神社"]), ("城", ["鳥居"])]) == [1.0, 0.0]
    given_ten = metric("vqa_accuracy").compute(
        predictions=["a cat"], references=[["cat"] + ["dog"] * 9], any_match=True
    )
    assert given_ten["vqa_accuracy"] == 1.0
