"""Answers read out of what a model wrote: deterministic, and never a guess.

What cannot be read is None: a wrong answer, which is counted as unparsable.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence

from vlmmerge.tasks import Example, Task, letters
from vlmmerge.tasks.numbers import number

# What stands before an answer that is named as such, in the languages of our tasks.
_LEADS = (
    *("answer", "option", "choice", "correct"),
    *("答え", "回答", "解答", "正解", "選択肢", "答案"),
    *("คำตอบ", "ข้อ", "ตอบ"),
    *("الإجابة", "الجواب", "الخيار"),
    *("jibu", "chaguo"),
)
_LINKS = r"(?:is|was|are|would be|be|は|が|是|为|คือ|هي|هو|ni)"
_JOINED = "[A-Za-z0-9]"  # what makes a letter part of a word, or of a name
_ARTICLE = r"[AI]\s+(?!(?:or|and|is|was|because)\b)[a-z]"  # `A dog` names no option
_MARKS = r"[\s:：\-–—*_'\"「『(\[（【]*"


def parse(task: Task, example: Example, raw: str) -> str | None:
    """The answer in a model's text, as the task has it read; None where it cannot be."""
    if task.kind == "multiple_choice":
        chosen = option(raw, example.options)
        return None if chosen is None else example.options[chosen]
    if task.extract == "number":
        return number(raw)
    if isinstance(task.extract, Mapping):
        return matched(raw, task.extract["regex"], task.extract.get("which", "last"))
    return raw


def cut(text: str, stops: Sequence[str]) -> str:
    """A text up to the first of the stops."""
    for stop in stops:
        text = text.split(stop, 1)[0]
    return text.strip()


def matched(text: str, pattern: str, which: str = "last") -> str | None:
    """The first or last match of a pattern: its first group, or all of it."""
    found = list(re.finditer(pattern, text))
    if not found:
        return None
    match = found[0 if which == "first" else -1]
    chosen: str | None = match[1] if match.re.groups else match[0]
    return None if chosen is None else chosen.strip()


def option(text: str, options: Sequence[str]) -> int | None:
    """The option that a text names: the first of these rules that applies, if it names only one.

    The text is an option, or a letter with or without its option; it says `the answer is (B)`, in
    one of our languages; it has one letter in brackets; it has one letter that stands alone; it
    has the text of one option.
    """
    folded = _folded(text)
    texts = [_folded(one) for one in options]
    if folded in texts and texts.count(folded) == 1:
        return texts.index(folded)
    plain = unicodedata.normalize("NFKC", text).strip()
    allowed = "".join(letters(len(options)))
    either = f"[{allowed}{allowed.lower()}]"
    if whole := re.fullmatch(rf"[(\[*]*({either})[)\].:,*。、]*(?:\s+(.*))?", plain, re.DOTALL):
        # `A cat` names no letter, `A. cat` does.
        bare = not re.match(rf"[(\[*]*{either}[)\].:,*。、]", plain)
        if not (whole[2] and bare):
            return allowed.index(whole[1].upper())
    leads = "|".join(map(re.escape, _LEADS))
    rules = (
        rf"(?i:{leads})\s*{_LINKS}?{_MARKS}({either})(?!{_JOINED})",
        rf"[(\[（【]\s*({either})\s*[)\]）】]",
        rf"(?<!{_JOINED})(?!{_ARTICLE})([{allowed}])(?!{_JOINED}|['’])",
    )
    for rule in rules:
        named = {letter.upper() for letter in re.findall(rule, plain)}
        if named:
            return allowed.index(named.pop()) if len(named) == 1 else None
    return _mentioned(folded, texts)


def _mentioned(text: str, options: Sequence[str]) -> int | None:
    """The one option whose text stands in `text`; within a longer option's text it does not."""
    named = set()
    for i in sorted(range(len(options)), key=lambda i: -len(options[i])):
        if not options[i]:
            continue
        spaced = options[i].isascii()
        pattern = re.escape(options[i])
        pattern = rf"(?<!\w){pattern}(?!\w)" if spaced else pattern
        text, count = re.subn(pattern, "\0", text)
        if count:
            named.add(options[i])
    if len(named) != 1:
        return None
    (one,) = named
    return options.index(one) if options.count(one) == 1 else None


def _folded(text: str) -> str:
    """Case, width, outer punctuation and runs of spaces aside."""
    normal = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return normal.strip(" .。!！'\"「」『』*")
