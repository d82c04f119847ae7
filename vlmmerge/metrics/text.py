"""Text tokenizers by name. A metric's figure means nothing without the name of its tokenizer."""

import unicodedata
from collections.abc import Callable

from vlmmerge.errors import ConfigError

Tokenize = Callable[[str], list[str]]


def tokenizer(name: str) -> Tokenize:
    """The tokenizer of a name: `char` for scripts without spaces, `whitespace` for the others."""
    try:
        return {"char": char, "whitespace": whitespace}[name]
    except KeyError:
        raise ConfigError(f"tokenizer: {name!r} is not char or whitespace") from None


def char(text: str) -> list[str]:
    """Characters in NFKC, spaces left out."""
    return [c for c in unicodedata.normalize("NFKC", text) if not c.isspace()]


def whitespace(text: str) -> list[str]:
    """Lower-case words between spaces."""
    return text.lower().split()
