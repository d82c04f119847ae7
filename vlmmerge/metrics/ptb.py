"""Words as COCO's scorers count them: the Penn Treebank's rules, and punctuation left out.

COCO runs Stanford's PTBTokenizer in Java with `-lowerCase` and drops a list of marks. These rules
give the same words on captions; what a caption does not have (smileys, phone numbers, currencies
written as words) may differ. `tools/compare_metrics.py` counts the differences.
"""

import re
import unicodedata

# COCO drops exactly these. Brackets come out of the Java program as "-lrb-", which its list does
# not name, so they count as words, and so do "?!" and "!!".
DROPPED = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])

_BRACKETS = {
    "(": "-lrb-",
    ")": "-rrb-",
    "[": "-lsb-",
    "]": "-rsb-",
    "{": "-lcb-",
    "}": "-rcb-",
}
_PLAIN = str.maketrans(
    {
        "“": '"',
        "”": '"',
        "„": '"',
        "‘": "'",
        "’": "'",
        "–": "--",
        "—": "--",
        "…": "...",
        "½": "1/2",
        "¼": "1/4",
        "¾": "3/4",
        "£": "#",
        "€": "$",
        "¢": " cents ",
        "\xa0": " ",
        "\xad": None,
    }
)
# Symbols of no script, emoji among them, which the Java program cannot read and deletes.
_DELETED = frozenset(["So", "Cs", "Co", "Cn", "Cf"])
# Their period is part of the word; those of `_BEFORE_NUMBER` only where a number follows.
_ABBREVIATIONS = """
adm al ala apr ariz assn asst atty aug ave blvd bros calif capt cf cmdr co col conn corp ct dec
dept det dr est etc ext feb fla fri ft ga gen gov hon inc ind insp intl jan jr jul jun kan ky lt
ltd maj mar md messrs mfg mich minn mlle mme mo mon mont mr mrs ms msgr mt natl neb nev nov oct
okla ph.d pres prof rd rep rev sen sep sept sgt sq sr st ste supt tel tenn thu thurs tue tues univ
va vs vt wed wis wyo
"""
_BEFORE_NUMBER = "fig no nos pp"

_LETTER = r"[^\W\d_]"
_ENDING = r"(?:n't|'(?:s|m|d|ll|re|ve)|'(?=\s|$))"
_ABBREVIATION = "|".join(re.escape(word) for word in _ABBREVIATIONS.split())
_TOKEN = re.compile(
    rf"""
    https?://[^\s"<>|]*[^\s"<>|.,;:!?()\[\]{{}}'-]        # addresses of pages
    | www\.[^\s"<>|]*[^\s"<>|.,;:!?()\[\]{{}}'-]
    | [\w.+-]+@[\w-]+(?:\.[\w-]+)+                        # and of people
    | </?[a-z][^<>\s]*>                                   # markup
    | [#@](?!\d){_LETTER}\w*                              # tags
    | (?:{_ABBREVIATION})\.(?![\w])
    | (?:{"|".join(_BEFORE_NUMBER.split())})\.(?=\ *\d)
    | (?:{_LETTER}\.)+{_LETTER}\.(?!\w)                   # u.s.
    | {_LETTER}\.(?=\s|$|['",;:!?)])                      # j.
    | (?<!\S)[+-]?\d+(?:[.,:/-]\d+)*(?!\w|[-/]\w)        # numbers, dates, ratios, a sign
    | \d+(?:[.,:/-]\d+)*(?!\w|[-/]\w)
    | \.\d+
    | '(?:em|cause|til|tis|twas|n)(?!\w)'?
    | '\d0s                                               # '90s
    | {_ENDING}(?!\w)
    | {_LETTER}{{1,2}}(?:&{_LETTER})+(?!\w)               # r&b, at&t
    | y'(?=all(?!\w)) | ma'am(?!\w) | ol'(?!\w) | d'(?!\w)
    | [dlo]'(?={_LETTER}{{2}})\w+(?:[-]\w+)*              # o'clock, d'oh
    | {_LETTER}+'(?!(?:s|m|d|ll|re|ve|t)(?!\w)){_LETTER}{{3,}}      # s'mores
    | n`t(?!\w)
    | \d+/\d+(?:-\w+)+                                    # 1/2-full
    | \w+(?:[-/.]\w+)*                                    # words, t-shirt, black/white, sign.the
    | \.\.\.+ | --+ | [?!]+ | `` | '' | \*+ | \#+
    | \S
    """,
    re.VERBOSE,
)
_JOINED = re.compile(
    r"(can)(not)|(gon|wan)(na)|(got)(ta)|(gim|lem)(me)|('t)(is|was)|(d')(ye)|(more)('n)"
)
_NEGATION = re.compile(r"(\w+)(n['`]t)")
_DASHES_AT_ENDS = re.compile(r"(?<![\w-])-(?=[^\W\d])|(?<=\w)-(?![\w-])")
_UNDERSCORES_AT_START = re.compile(r"(?<!\w)_+(?=[^\W_])|(?<=[^\W_])_+(?!\w)")


def ptb(text: str) -> list[str]:
    """Lower-case words of English text, punctuation left out."""
    return [token for token in treebank(text) if token not in DROPPED]


def treebank(text: str) -> list[str]:
    """All tokens of English text in lower case, punctuation included."""
    text = text.translate(_PLAIN)
    if not text.isascii():
        text = "".join(c for c in text if c == "°" or unicodedata.category(c) not in _DELETED)
    text = _UNDERSCORES_AT_START.sub(r" \g<0> ", _DASHES_AT_ENDS.sub(" - ", text.lower()))
    text = _NEGATION.sub(r"\1 \2", text)
    tokens: list[str] = []
    for found in _TOKEN.findall(text):
        if joined := _JOINED.fullmatch(found):
            tokens += [part for part in joined.groups() if part]
        elif found == '"':
            tokens.append("''")
        elif len(found) > 2 and set(found) in ({"."}, {"-"}):
            tokens.append("..." if found[0] == "." else "--")
        else:
            tokens.append(_BRACKETS.get(found, found))
    return tokens
