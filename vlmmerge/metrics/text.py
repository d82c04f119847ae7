"""Text tokenizers by name. A metric's figure means nothing without the name of its tokenizer."""

import importlib
import re
import string
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from itertools import islice

from vlmmerge.errors import ConfigError
from vlmmerge.metrics.ptb import ptb

Tokenize = Callable[[str], Sequence[str]]

TOKENIZERS = ("char", "whitespace", "13a", "ptb", "mecab")
_ENGLISH = ("13a", "ptb")
_SPACELESS = ("HIRAGANA", "KATAKANA", "CJK", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")

CJK_MARKS = "。、「」『』・〈〉《》【】〔〕"
_FOLDED = str.maketrans(dict.fromkeys(CJK_MARKS))
_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation))
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_SAMPLE = 256  # references that are looked at for their script


def tokenizer(name: str, lowercase: bool = False) -> Tokenize:
    """The tokenizer of a name.

    `char`: characters in NFKC without spaces, for scripts that write none. `whitespace`: what
    stands between spaces. `13a`: as BLEU's mteval script has it. `ptb`: as COCO has it, always in
    lower case and without punctuation. `mecab`: Japanese words (extra `ja`). Raises `ConfigError`
    for other names, and for `mecab` without its extra.
    """
    made: dict[str, Callable[[], Tokenize]] = {
        "char": lambda: char,
        "whitespace": lambda: str.split,
        "13a": _mteval,
        "ptb": _treebank,
        "mecab": _mecab,
    }
    if name not in made:
        raise ConfigError(f"tokenizer: {name!r} is not one of {', '.join(TOKENIZERS)}")
    tokenize = made[name]()
    return (lambda text: tokenize(text.lower())) if lowercase else tokenize


def char(text: str) -> list[str]:
    """Characters in NFKC, spaces left out."""
    return [c for c in unicodedata.normalize("NFKC", text) if not c.isspace()]


# References come again with every candidate of a search: their words are kept.
@cache
def _treebank() -> Tokenize:
    return lru_cache(maxsize=1 << 16)(ptb)


@cache
def _mteval() -> Tokenize:
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    made: Callable[[], Callable[[str], str]] = Tokenizer13a  # sacrebleu is typed in part
    split = made()
    return lambda text: split(text).split()


@cache
def _mecab() -> Tokenize:
    try:
        fugashi = importlib.import_module("fugashi")
        folder = importlib.import_module("unidic_lite").DICDIR
    except ImportError as error:
        raise ConfigError(
            "tokenizer: mecab needs fugashi and unidic-lite; pip install 'vlmmerge[ja]', or use"
            " tokenizer=char"
        ) from error
    tagger = fugashi.Tagger(f'-r "{folder}/mecabrc" -d "{folder}"')

    @lru_cache(maxsize=1 << 16)
    def split(text: str) -> Sequence[str]:
        return [word.surface for word in tagger(text)]

    return split


def fold(text: str) -> str:
    """NFKC, and the punctuation of Chinese, Japanese and Korean left out."""
    return unicodedata.normalize("NFKC", text).translate(_FOLDED)


def squad_fold(text: str) -> str:
    """Lower case, without punctuation and English articles, as SQuAD compares answers."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def warn_of_script(references: Sequence[Sequence[str]], name: str) -> None:
    """Warn where a tokenizer cannot split the references' script, which makes figures near 0.

    English tokenizers want Latin letters, `whitespace` wants a script that writes spaces.
    """
    if name not in (*_ENGLISH, "whitespace"):
        return
    step = max(1, len(references) // _SAMPLE)
    text = " ".join(part for row in islice(references, 0, None, step) for part in row)
    if text.isascii():
        return
    letters = [unicodedata.name(c, "") for c in text if c.isalpha()]
    if name == "whitespace":
        odd = sum(letter.startswith(_SPACELESS) for letter in letters)
        reason = "are written without spaces"
    else:
        odd = sum(not letter.startswith("LATIN") for letter in letters)
        reason = "are mostly not in Latin letters"
    if 2 * odd > len(letters):
        warnings.warn(
            f"the references {reason}, and tokenizer {name} cannot split them: figures will be"
            " near 0; use tokenizer=char (or mecab for Japanese)",
            stacklevel=3,
        )
