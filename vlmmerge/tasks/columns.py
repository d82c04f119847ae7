"""Rows as mappings: columns by dotted names, templates, filters, nested lists as rows."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vlmmerge.errors import TaskError

Row = Mapping[str, Any]

NAME = re.compile(r"\{(\w[\w.\- ]*)\}")


def lookup(row: Any, column: str) -> Any:
    """A column by its name, or by a path into nested ones: `answers.answer` is a list of texts.

    None where it is there and empty. Raises `KeyError` where it is not there.
    """
    if isinstance(row, Mapping):
        if column in row:
            return row[column]
        # The longest name first: what was exploded stands under a path of its own.
        for i in reversed(range(len(column))):
            if column[i] == "." and (head := column[:i]) in row:
                return None if row[head] is None else lookup(row[head], column[i + 1 :])
    elif isinstance(row, Sequence) and not isinstance(row, str | bytes):
        return [lookup(item, column) for item in row]
    raise KeyError(column)


def read(row: Row, column: str) -> Any:
    """A column that must be there and hold something. Raises `TaskError`."""
    value = _found(row, column)
    if value is None:
        raise TaskError(f"column {column!r} is empty")
    return value


def fill(template: str, row: Row) -> str:
    """A template with the row's columns in it; what they hold is not read as a template again."""
    return NAME.sub(lambda match: text_of(read(row, match[1])), template)


def text_of(value: Any) -> str:
    """A value as people write it: 18.0 is 18, a list is its items with commas between."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return ", ".join(text_of(item) for item in value)
    return str(value)


def texts_of(value: Any) -> tuple[str, ...]:
    """The texts of a column that holds one or a list of them; empty ones keep their place."""
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return tuple(text_of(item) for item in value if item is not None)
    return (text_of(value),)


def exploded(row: Row, column: str) -> Iterator[Row]:
    """A row for every item of a list column; the item stands where the list stood.

    A mapping of lists, as `datasets` keeps a sequence of mappings, is a list of mappings too.
    """
    items = read(row, column)
    if isinstance(items, Mapping):
        lengths = {len(values) for values in items.values()}
        if len(lengths) != 1:
            raise TaskError(f"column {column!r}: its lists are not of one length")
        items = [
            dict(zip(items, values, strict=True)) for values in zip(*items.values(), strict=True)
        ]
    if isinstance(items, str | bytes) or not isinstance(items, Sequence):
        raise TaskError(f"column {column!r} holds no list to explode")
    for item in items:
        yield {**row, column: item}


def keeps(row: Row, conditions: Mapping[str, Any]) -> bool:
    """Whether a row meets every condition.

    A condition is a value, a list of values, {min, max} or {not: value or list}.
    """
    return all(_meets(_found(row, column), wanted) for column, wanted in conditions.items())


def _found(row: Row, column: str) -> Any:
    try:
        return lookup(row, column)
    except KeyError as error:
        raise TaskError(
            f"column {column!r} is missing; there are {', '.join(map(str, row))}"
        ) from error


def _meets(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        if "not" in wanted:
            return not _meets(value, wanted["not"])
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        least, most = wanted.get("min"), wanted.get("max")
        return (least is None or value >= least) and (most is None or value <= most)
    if isinstance(wanted, list | tuple):
        return any(_meets(value, one) for one in wanted)
    # 1 is not True: YAML's yes must not meet a label.
    return bool(value == wanted) and isinstance(value, bool) == isinstance(wanted, bool)
