"""A row made into an example, as a task's columns and templates say."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vlmmerge.errors import TaskError
from vlmmerge.tasks.columns import NAME, Row, fill, lookup, read, text_of, texts_of
from vlmmerge.tasks.example import Example, Picture, Turn, lettered, letters
from vlmmerge.tasks.numbers import number
from vlmmerge.tasks.options import options_of, right_option
from vlmmerge.tasks.pictures import Pictures

if TYPE_CHECKING:
    from vlmmerge.tasks.task import Task

LIST_OF_OPTIONS = "{options}"


def example_of(task: "Task", row: Row, number: str, pictures: Pictures) -> Example:
    """The example of a row. Raises `TaskError` that says what is wrong with it, not where."""
    options: tuple[str, ...] = ()
    if task.kind == "multiple_choice":
        options = options_of(row, task.columns["options"])
        right = right_option(read(row, _one(task, "answer")), options)
        references: tuple[str, ...] = (options[right],)
    else:
        references = _references(row, task.columns["references"])
        if task.extract == "number":
            references = tuple(_number(text, task.columns["references"]) for text in references)
        if task.kind == "perplexity" and not references[0].strip():
            raise TaskError(f"column {task.columns['references']!r} holds no text first")
    pieces = task.prompt.split(LIST_OF_OPTIONS) if options else [task.prompt]
    around = tuple(fill(piece, row) for piece in pieces)
    identity = text_of(read(row, _one(task, "id"))) if "id" in task.columns else number
    return Example(
        identity,
        lettered(options).join(around),
        references,
        _pictures(task, row, pictures),
        options,
        text=_own_text(task, row, references),
        around=around if len(around) > 1 else (),
    )


def turn_of(task: "Task", example: Example) -> Turn:
    """An example with its answer, as shown before others."""
    answer = example.references[0]
    if task.scored == "letter":
        answer = letters(len(example.options))[example.options.index(answer)]
    return Turn(example.prompt, example.pictures, answer)


def stratum_of(task: "Task", row: Row) -> str:
    """The value of the column that a share is stratified by; one for all without."""
    column = (task.splits_by or {}).get("stratify")
    return "" if column is None else text_of(read(row, column))


def _one(task: "Task", key: str) -> str:
    column = task.columns[key]
    assert isinstance(column, str)
    return column


def _references(row: Row, columns: str | Sequence[str]) -> tuple[str, ...]:
    names = [columns] if isinstance(columns, str) else columns
    found = tuple(text for name in names for text in texts_of(read(row, name)))
    if not any(text.strip() for text in found):
        raise TaskError(f"column {', '.join(names)!r} holds no reference")
    return found


def _number(text: str, columns: str | Sequence[str]) -> str:
    """A reference as numbers are read from answers, so that 1,000 is 1000."""
    found = number(text)
    if found is None:
        raise TaskError(f"column {columns!r} holds no number: {text[:60]!r}")
    return found


def _pictures(task: "Task", row: Row, pictures: Pictures) -> tuple[Picture, ...]:
    made = []
    for key in ("image", "images"):
        if key not in task.columns:
            continue
        columns = task.columns[key]
        if isinstance(columns, str):
            held = read(row, columns)
            values = [(columns, v) for v in (held if isinstance(held, list) else [held])]
        else:
            # Of numbered columns (image_1 to image_7) a row fills as many as it has images.
            values = [(name, value) for name in columns if (value := _optional(row, name))]
            if not values:
                raise TaskError(f"columns {', '.join(columns)} are all empty")
        for column, value in values:
            try:
                made.append(pictures.of(value))
            except TaskError as error:
                raise TaskError(f"column {column!r}: {error}") from error
        if not values:
            raise TaskError(f"column {columns!r} holds no image")
    return tuple(made)


def _optional(row: Row, column: str) -> object:
    try:
        return lookup(row, column)
    except KeyError as error:
        raise TaskError(f"column {column!r} is missing") from error


def _own_text(task: "Task", row: Row, references: Sequence[str]) -> str:
    """The texts of the columns that are asked with, however the template puts them.

    A row to be read (perplexity), or one whose prompt names no column, is known by its references
    too.
    """
    names = dict.fromkeys(NAME.findall(task.prompt.replace(LIST_OF_OPTIONS, "")))
    texts = [text_of(read(row, name)) for name in names]
    if task.kind == "perplexity" or (not texts and not task.has_pictures):
        texts += references
    return "\0".join(" ".join(text.split()) for text in texts)
