"""What can be wrong with a task before any row is read."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from vlmmerge.config import check_keys
from vlmmerge.errors import TaskError
from vlmmerge.tasks.making import LIST_OF_OPTIONS
from vlmmerge.tasks.splitting import HOLDOUT, SEARCH

if TYPE_CHECKING:
    from vlmmerge.tasks.task import Task

COLUMNS = ("image", "images", "references", "options", "answer", "id")
_SEVERAL = ("image", "images", "references", "options")  # may be several columns
_CHOICES = {
    "kind": ("generate", "multiple_choice", "perplexity"),
    "normalization": ("sum", "token", "char", "byte"),
    "answered_by": ("likelihood", "generation"),
    "scored": ("text", "letter"),
    "rotations": (None, "mean", "majority"),
    "on_bad_row": ("refuse", "skip"),
}
_MAPPING, _TEXT = ((Mapping,), "a mapping"), ((str,), "a text")
_OPTIONAL = ((str, type(None)), "a text")
_FLAG = ((bool,), "true or false")
_TYPES = {
    **dict.fromkeys(("dataset", "columns", "metric_options", "generation"), _MAPPING),
    **dict.fromkeys(("prompt", "metric", "delimiter"), _TEXT),
    **dict.fromkeys(("system", "language", "tokenizer", "explode"), _OPTIONAL),
    **dict.fromkeys(("higher_is_better", "streaming", "blank_wrong_language"), _FLAG),
    "chat": ((bool, str), "true, false or a template"),
    "mutual_information": ((bool, str), "true, false or a prompt"),
    "fewshot": ((int, Mapping), "a number or {n, seed, split}"),
    "extract": ((str, Mapping, type(None)), "number or {regex: ...}"),
    "filter": ((Mapping, type(None)), "a mapping of columns to values"),
    "splits_by": ((Mapping, type(None)), "a mapping"),
    "metrics": ((list, tuple), "a list of metrics"),
}
READINGS = ("bits_per_byte", "log_perplexity", "perplexity")
_NEEDED = {"multiple_choice": ("options", "answer")}


def check(task: "Task") -> None:
    """Raises `TaskError` (or `ConfigError` for an unknown key) naming the task and the key."""
    for name, (types, what) in _TYPES.items():
        if not isinstance(task.__dict__[name], types):
            raise TaskError(f"{task.where}.{name}: {task.__dict__[name]!r} is not {what}")
    for name, known in _CHOICES.items():
        value = task.__dict__[name]
        if value not in known:
            raise TaskError(f"{task.where}.{name}: {value!r} is not one of {_listed(known)}")
    unknown = task.columns.keys() - set(COLUMNS)
    if unknown:
        raise TaskError(
            f"{task.where}.columns: {min(unknown)!r} is not one of {', '.join(COLUMNS)}"
        )
    for column in _NEEDED.get(task.kind, ("references",)):
        if column not in task.columns:
            raise TaskError(f"{task.where}.columns: {task.kind} needs {column}")
    for name, columns in task.columns.items():
        if not (isinstance(columns, str) or (name in _SEVERAL and _are_names(columns))):
            raise TaskError(f"{task.where}.columns.{name}: {columns!r} is no column's name")
    _check_numbers(task)
    _check_splits(task)
    _check_choice(task)
    _check_extract(task)
    check_keys(task.generation, ("max_new_tokens", "stop"), f"{task.where}.generation")
    if not all(isinstance(text, str) and text for text in task.stop):
        raise TaskError(f"{task.where}.generation.stop: {task.stop!r} are not texts to stop at")
    if isinstance(task.fewshot, Mapping):
        check_keys(task.fewshot, ("n", "seed", "split"), f"{task.where}.fewshot")
    if task.shots and task.shots_from == HOLDOUT:
        raise TaskError(f"{task.where}.fewshot.split: shown rows may not come from the holdout")
    if task.kind == "perplexity":
        if task.metric not in READINGS:
            raise TaskError(
                f"{task.where}.metric: {task.metric!r} is not one of {_listed(READINGS)}"
            )
        if task.higher_is_better:
            raise TaskError(
                f"{task.where}: {task.metric} is better when low; higher_is_better: false"
            )


def _check_numbers(task: "Task") -> None:
    numbers = {
        "limit": (task.limit, 1),
        "max_pixels": (task.max_pixels, 1),
        "max_new_tokens": (task.new_tokens, 1),
        "fewshot": (task.shots, 0),
        "fewshot.seed": (task.shots_seed, 0),
        "seed": (task.seed, 0),
    }
    for name, (value, least) in numbers.items():
        if value is None and name == "limit":
            continue
        if type(value) is not int or value < least:
            raise TaskError(f"{task.where}.{name}: {value!r} is not a whole number from {least} up")


def _check_splits(task: "Task") -> None:
    spec, where = task.splits_by, f"{task.where}.splits"
    if spec is None:
        return
    held = spec.get(HOLDOUT)
    if isinstance(held, bool) or not isinstance(held, str | int | float | None):
        raise TaskError(f"{where}.holdout: {held!r} is neither a split nor a share")
    if task.share is None:
        if not spec or not all(isinstance(source, str) for source in spec.values()):
            raise TaskError(
                f"{where}: give split: source split, as {{search: train, holdout: test}},"
                " or a share, as {holdout: 0.5, seed: 0}"
            )
        if spec.get(SEARCH) is not None and spec.get(SEARCH) == spec.get(HOLDOUT):
            raise TaskError(f"{where}: search and holdout are both {spec[SEARCH]!r}")
        return
    check_keys(spec, (HOLDOUT, "seed", "of", "stratify"), where)
    if not 0 < task.share < 1:
        raise TaskError(f"{where}.holdout: {task.share!r} is not a share between 0 and 1")
    if type(spec.get("seed", 0)) is not int or spec.get("seed", 0) < 0:
        raise TaskError(f"{where}.seed: {spec['seed']!r} is not a whole number from 0 up")


def _check_choice(task: "Task") -> None:
    choice = task.kind == "multiple_choice"
    likelihood = choice and task.answered_by == "likelihood"
    if task.rotations and not (likelihood and LIST_OF_OPTIONS in task.prompt):
        raise TaskError(
            f"{task.where}.rotations: options are moved in a prompt that lists them ({{options}}),"
            " for a multiple choice by likelihood"
        )
    if task.mutual_information is not False and not likelihood:
        raise TaskError(f"{task.where}.mutual_information: is for a multiple choice by likelihood")
    if task.scored == "letter" and not (choice and LIST_OF_OPTIONS in task.prompt):
        raise TaskError(f"{task.where}.scored: letters are of a prompt that lists {{options}}")


def _check_extract(task: "Task") -> None:
    extract, where = task.extract, f"{task.where}.extract"
    if extract is None:
        return
    if task.kind != "generate":
        raise TaskError(f"{where}: is for kind generate")
    if isinstance(extract, str):
        if extract != "number":
            raise TaskError(f"{where}: {extract!r} is not number or {{regex: ...}}")
        return
    check_keys(extract, ("regex", "which"), where)
    if extract.get("which", "last") not in ("first", "last"):
        raise TaskError(f"{where}.which: {extract['which']!r} is not first or last")
    try:
        re.compile(extract.get("regex", ""))
    except (re.error, TypeError) as error:
        raise TaskError(f"{where}.regex: {extract.get('regex')!r} ({error})") from error
    if not extract.get("regex"):
        raise TaskError(f"{where}.regex: a pattern is needed")


def _are_names(columns: object) -> bool:
    return (
        isinstance(columns, list | tuple)
        and bool(columns)
        and all(isinstance(column, str) for column in columns)
    )


def _listed(known: tuple[str | None, ...]) -> str:
    return ", ".join(str(name) for name in known if name)
