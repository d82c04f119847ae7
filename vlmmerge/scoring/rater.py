"""Rater: a judge that is plugged in, an endpoint or a function, and its verdicts as numbers."""

import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from vlmmerge.config import check_keys, locate, one_line
from vlmmerge.errors import ConfigError, EngineError
from vlmmerge.scoring.endpoint import Endpoint
from vlmmerge.tasks.columns import NAME, fill

JUDGE = "judge"

_PROMPT = """Rate how well an answer to a question agrees with the reference answers.
Question: {question}
Reference answers: {references}
Answer: {answer}
Rate it from {low} (wrong) to {high} (as good as a reference). End with the rating alone, as in:
Rating: [[{high}]]"""
_COLUMNS = ("question", "answer", "references", "low", "high")
_SHARED = ("scale", "concurrency")
_OF_ENDPOINT = ("url", "model", "prompt", "api_key_env", "request", "timeout", "retries", "pause")

# How judges write a verdict, the plainest first; of several of a kind the last one counts.
_NUMBER = r"([-+]?\d{1,9}(?:\.\d{1,9})?)"
_OF = r"(?![\d.]*\d)(?!\s*[-–~]\s*\d)(?:\s*/\s*(\d+))?"  # 7-8 is no verdict, 7/10 may be one
_FORMS = tuple(
    re.compile(form, re.IGNORECASE)
    for form in (
        rf"\[\[\s*{_NUMBER}{_OF}\s*\]\]",
        rf"[\"'](?:score|rating)[\"']\s*:\s*[\"']?{_NUMBER}{_OF}",
        rf"\b(?:score|rating)\b[\s*_]*[:=][\s*_]*{_NUMBER}{_OF}",
        rf"(?:評価|評点|点数|スコア|採点)[\s*_]*[:=はが][\s*_]*{_NUMBER}{_OF}",
    )
)
_ALONE = re.compile(rf"{_NUMBER}(?:\s*/\s*(\d+))?\s*[.。点]?")

Row = tuple[str, str, tuple[str, ...]]  # question, answer, references


@dataclass(frozen=True)
class Rating:
    """A judge's verdict: a number of its scale, or none that could be read; and its words."""

    score: float | None
    words: str


@dataclass(frozen=True)
class Rater:
    """A judge as a metric: `metric: judge`, described by `metric_options: {judge: {...}}`.

    An endpoint: `url`, `model`, `prompt` (a template over {question}, {answer}, {references},
    {low} and {high}) and what `Endpoint` takes. Or `callable`: a function of the command line's
    trust (`trust=[my_package.]`), called with `question`, `answer` and `references`, which gives a
    number, a text with a verdict in it, or None. `scale`: the lowest and the highest score; what is
    outside of it is no verdict. `concurrency`: rows asked at a time.

    A verdict that cannot be read is no score: it is left out of the mean, and the share of those is
    reported beside it. The same row and answer are asked once.
    """

    opinion: Callable[[Row], object]
    where: str
    low: float = 1.0
    high: float = 10.0
    concurrency: int = 8
    _known: dict[Row, Rating] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, options: Mapping[str, Any], where: str) -> "Rater":
        """The judge that a task's options describe. Raises `ConfigError`."""
        low, high = _scale(options.get("scale", [1, 10]), where)
        concurrency = options.get("concurrency", 8)
        if type(concurrency) is not int or concurrency < 1:
            raise ConfigError(f"{where}.concurrency: {concurrency!r} is no whole number from 1")
        if "callable" in options:
            check_keys(options, ["callable", *_SHARED], where)
            opinion = _called(locate({"_target_": options["callable"]}, where), where)
        else:
            check_keys(options, [*_OF_ENDPOINT, *_SHARED], where)
            opinion = _asked(options, (low, high), where)
        return cls(opinion, where, low, high, concurrency)

    def compute(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        questions: Sequence[str],
    ) -> dict[str, Any]:
        """`judge` (the mean of what was read), `per_example` (NaN: not read), `unread`, `words`.

        Raises `EngineError` where the judge does not answer, or no verdict can be read.
        """
        rows = [
            (question, answer, tuple(targets))
            for question, answer, targets in zip(questions, predictions, references, strict=True)
        ]
        self._rate([row for row in dict.fromkeys(rows) if row not in self._known])
        ratings = [self._known[row] for row in rows]
        read = [rating.score for rating in ratings if rating.score is not None]
        if not read:
            raise EngineError(
                f"{self.where}: none of {len(rows)} verdicts could be read, the last was"
                f" {one_line(ratings[-1].words)[-200:]!r}; ask for an end like Rating:"
                f" [[{self.high:g}]], from {self.low:g} to {self.high:g}"
            )
        return {
            JUDGE: math.fsum(read) / len(read),
            "per_example": [math.nan if r.score is None else r.score for r in ratings],
            "unread": 1 - len(read) / len(rows),
            "words": [rating.words for rating in ratings],
        }

    def _rate(self, rows: Sequence[Row]) -> None:
        with ThreadPoolExecutor(self.concurrency) as pool:
            asked = [pool.submit(self.opinion, row) for row in rows]
            try:
                for row, future in zip(rows, asked, strict=True):
                    self._known[row] = self._rating(future.result())
            finally:
                for future in asked:
                    future.cancel()

    def _rating(self, said: object) -> Rating:
        words = "" if said is None else str(said)
        number = isinstance(said, int | float) and not isinstance(said, bool)
        score = float(words) if number else read_verdict(words, self.high)
        fits = score is not None and self.low <= score <= self.high
        return Rating(score if fits else None, words)


def read_verdict(words: str, highest: float) -> float | None:
    """The number that a judge ends with: `[[7]]`, `{"score": 7}`, `Rating: 7/10` or a number alone.

    None where there is none, or where it is of another scale than up to `highest` (`7/100`).
    """
    text = unicodedata.normalize("NFKC", words)
    found = next((all_ for form in _FORMS if (all_ := list(form.finditer(text)))), None)
    match = found[-1] if found else _ALONE.fullmatch(text.strip())
    if match is None:
        return None
    number, of = match.groups()
    return float(number) if of is None or float(of) == highest else None


def _asked(options: Mapping[str, Any], scale: tuple[float, float], where: str) -> Any:
    """The opinion of an endpoint."""
    template = options.get("prompt", _PROMPT)
    if not isinstance(template, str):
        raise ConfigError(f"{where}.prompt: {template!r} is no text")
    named = NAME.findall(template)
    if "answer" not in named or (odd := sorted(set(named) - set(_COLUMNS))):
        what = f"knows no {{{odd[0]}}}" if "answer" in named else "shows no {answer}"
        raise ConfigError(f"{where}.prompt: {what}; there are {', '.join(_COLUMNS)}")
    for name in ("url", "model"):
        if not isinstance(options.get(name), str):
            raise ConfigError(f"{where}.{name}: a judge needs a url and a model, or a callable")
    endpoint = Endpoint(
        where=where, **{k: options[k] for k in _OF_ENDPOINT if k in options and k != "prompt"}
    )
    low, high = scale

    def opinion(row: Row) -> str:
        question, answer, references = row
        columns = {
            "question": question,
            "answer": answer,
            "references": " / ".join(references),
            "low": low,
            "high": high,
        }
        return endpoint.ask(fill(template, columns))

    return opinion


def _called(function: Any, where: str) -> Any:
    """The opinion of a function."""
    if not callable(function):
        raise ConfigError(f"{where}.callable: {function!r} cannot be called")

    def opinion(row: Row) -> object:
        question, answer, references = row
        try:
            return function(question=question, answer=answer, references=list(references))
        # Whatever a stranger's function raises, the run ends with a line that says whose it was.
        except Exception as error:
            kind = type(error).__name__
            raise EngineError(f"{where}: the judge failed ({kind}: {one_line(error)})") from error

    return opinion


def _scale(value: Any, where: str) -> tuple[float, float]:
    numbers = isinstance(value, list | tuple) and len(value) == 2
    if not numbers or not all(type(v) in (int, float) for v in value) or value[0] >= value[1]:
        raise ConfigError(f"{where}.scale: {value!r} is not a lowest and a highest score")
    return float(value[0]), float(value[1])
