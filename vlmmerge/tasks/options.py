"""Options of a multiple choice and which of them is right, however a dataset writes them."""

import ast
import json
from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any

from vlmmerge.errors import TaskError
from vlmmerge.tasks.columns import Row, lookup, read, text_of

_LONGEST = 100_000  # characters of a list written as text
_MOST = 26  # as many as there are letters


def options_of(row: Row, columns: str | Sequence[str]) -> tuple[str, ...]:
    """From a list, from a list written as text (JSON or a Python literal), or from several columns.

    Of several columns those at the end may be empty. Raises `TaskError`.
    """
    if isinstance(columns, str):
        where, items = f"column {columns!r}", read(row, columns)
        if isinstance(items, str):
            items = _parsed(items, where)
    else:
        where, items = f"columns {', '.join(columns)}", _numbered(row, columns)
    if not isinstance(items, Sequence) or isinstance(items, str | bytes):
        raise TaskError(f"{where}: {items!r} is no list of options")
    if not all(isinstance(item, str | int | float) for item in items):
        raise TaskError(f"{where}: an option is no text")
    if not 2 <= len(items) <= _MOST:
        raise TaskError(f"{where}: {len(items)} options; from 2 to {_MOST} can be asked")
    texts = tuple(text_of(item) for item in items)
    # Nothing is always likely.
    if empty := [i for i, text in enumerate(texts) if not text.strip()]:
        raise TaskError(f"{where}: option {ascii_uppercase[empty[0]]} is empty")
    return texts


def right_option(label: Any, options: Sequence[str]) -> int:
    """The index that a label means: an option's text, a letter, or an index from 0.

    Raises `TaskError`, for -1 too: a dataset that keeps its answers to itself.
    """
    index = label
    if isinstance(label, str):
        stripped = label.strip()
        if label in options:
            return options.index(label)
        if len(stripped) == 1 and stripped.isascii() and stripped.isalpha():
            index = ord(stripped.upper()) - ord("A")
        elif stripped.isdecimal():
            index = int(stripped)
    elif isinstance(label, float) and label.is_integer():
        index = int(label)
    if isinstance(index, int) and not isinstance(index, bool) and 0 <= index < len(options):
        return index
    hint = "; this revision keeps its answers to itself" if index in (-1, "-1") else ""
    raise TaskError(f"the answer {label!r} is none of its {len(options)} options{hint}")


def _parsed(text: str, where: str) -> Any:
    """A list that was written as text, read without running anything."""
    if len(text) > _LONGEST:
        raise TaskError(f"{where}: {len(text)} characters are no list of options")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        found = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise TaskError(f"{where}: {text[:60]!r} cannot be read as a list of options") from error
    return list(found) if isinstance(found, tuple) else found


def _numbered(row: Row, columns: Sequence[str]) -> list[Any]:
    items = []
    for column in columns:
        try:
            items.append(lookup(row, column))
        except KeyError as error:
            raise TaskError(f"column {column!r} is missing") from error
    while items and items[-1] in (None, ""):
        items.pop()
    if None in items:
        raise TaskError(f"column {columns[items.index(None)]!r} is empty")
    return items
