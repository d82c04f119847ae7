"""Formulas of metrics written out plainly, one example at a time, for compare_metrics.py."""

import re
import string
from collections.abc import Sequence

# Of the official table, what compare_metrics.py's answers have.
CONTRACTIONS = {"dont": "don't"}
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]

MARKS = ';/[]"{}()=+\\_-><@`,?!'


def vqa_normalised(text: str) -> str:
    """processPunctuation, then processDigitArticle, as the official script goes."""
    text = text.replace("\n", " ").replace("\t", " ").strip()
    out = text
    comma = re.search(r"\d,\d", text) is not None
    for mark in MARKS:
        if mark + " " in text or " " + mark in text or comma:
            out = out.replace(mark, "")
        else:
            out = out.replace(mark, " ")
    out = "".join(
        c for i, c in enumerate(out) if c != "." or (i + 1 < len(out) and out[i + 1].isdigit())
    )
    words = []
    for word in out.lower().split():
        number = "0" if word == "none" else word
        if word in NUMBERS:
            number = str(NUMBERS.index(word))
        if number not in ("a", "an", "the"):
            words.append(CONTRACTIONS.get(number, number))
    return " ".join(words)


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    return _leave_one_out(vqa_normalised(prediction), [vqa_normalised(a) for a in answers])


def vqa_strict(prediction: str, answers: Sequence[str]) -> float:
    """The 2017 script: texts as they are where all annotators agree."""
    if len(set(answers)) == 1:
        return _leave_one_out(prediction.strip(), list(answers))
    return vqa_accuracy(prediction, answers)


def _leave_one_out(prediction: str, answers: Sequence[str]) -> float:
    total = 0.0
    for i in range(len(answers)):
        others = [answer for j, answer in enumerate(answers) if j != i]
        total += min(1.0, sum(answer == prediction for answer in others) / 3)
    return total / len(answers)


def anls(prediction: str, answers: Sequence[str]) -> float:
    best = 0.0
    for answer in answers:
        one, other = (" ".join(text.lower().split()) for text in (prediction, answer))
        distance = levenshtein(one, other) / max(len(one), len(other), 1)
        best = max(best, 1 - distance if distance < 0.5 else 0.0)
    return best


def levenshtein(one: str, other: str) -> int:
    table = [
        [i + j if i * j == 0 else 0 for j in range(len(other) + 1)] for i in range(len(one) + 1)
    ]
    for i in range(1, len(one) + 1):
        for j in range(1, len(other) + 1):
            table[i][j] = min(
                table[i - 1][j] + 1,
                table[i][j - 1] + 1,
                table[i - 1][j - 1] + (one[i - 1] != other[j - 1]),
            )
    return table[-1][-1]


def relaxed_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """As published: a relative change of 5 %, taken in binary."""
    for answer in answers:
        found, wanted = as_number(prediction), as_number(answer)
        if found is not None and wanted:
            if abs(found - wanted) / abs(wanted) <= 0.05:
                return 1.0
        elif prediction.strip().lower() == answer.strip().lower():
            return 1.0
    return 0.0


def as_number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    return float(any(prediction.strip() == answer.strip() for answer in answers))


def token_f1(prediction: str, answers: Sequence[str]) -> float:
    """SQuAD's: lower case, no punctuation, no articles, words between spaces."""
    best = 0.0
    for answer in answers:
        one, other = squad_words(prediction), squad_words(answer)
        left = list(other)
        shared = 0
        for word in one:
            if word in left:
                left.remove(word)
                shared += 1
        if not one or not other:
            best = max(best, float(one == other))
        elif shared:
            precision, recall = shared / len(one), shared / len(other)
            best = max(best, 2 * precision * recall / (precision + recall))
    return best


def squad_words(text: str) -> list[str]:
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()
