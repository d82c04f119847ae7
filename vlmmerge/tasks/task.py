"""Task: a dataset, how its rows are asked, and the metric of the answers."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Literal

from vlmmerge.config import build, check_keys
from vlmmerge.errors import TaskError
from vlmmerge.tasks.example import Example, Picture
from vlmmerge.tasks.rows import load_rows, splits_of

_COLUMNS = ("image", "images", "references", "options", "answer", "id")
_NAME = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Task:
    """A task as its YAML describes it.

    `dataset`: `path` (a hub id or a folder; parquet, json, csv with `data_files` by split), `name`,
    `revision`. `columns`: where image(s), references, options and answer (an index, a letter or an
    option's text) are found. `prompt` and `system` are templates over the columns, as `{question}`.
    `normalization`: how a multiple-choice option's log-likelihood is scaled.
    """

    name: str
    dataset: Mapping[str, Any]
    columns: Mapping[str, str]
    prompt: str
    metric: str
    kind: Literal["generate", "multiple_choice"] = "generate"
    system: str | None = None
    language: str | None = None
    tokenizer: str | None = None
    metrics: tuple[str, ...] = ()
    max_new_tokens: int = 32
    normalization: Literal["sum", "token", "char", "byte"] = "sum"
    higher_is_better: bool = True
    metric_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        where = f"tasks.{self.name}"
        if self.kind not in ("generate", "multiple_choice"):
            raise TaskError(f"{where}.kind: {self.kind!r} is not generate or multiple_choice")
        if self.normalization not in ("sum", "token", "char", "byte"):
            raise TaskError(f"{where}.normalization: {self.normalization!r} is not known")
        unknown = self.columns.keys() - set(_COLUMNS)
        if unknown:
            raise TaskError(
                f"{where}.columns: {min(unknown)!r} is not one of {', '.join(_COLUMNS)}"
            )
        needed = ("options", "answer") if self.kind == "multiple_choice" else ("references",)
        for column in needed:
            if column not in self.columns:
                raise TaskError(f"{where}.columns: {self.kind} needs {column}")

    @property
    def fingerprint(self) -> str:
        """A hash of all that decides a score but the rows, wherever they lie."""
        asked = {k: v for k, v in asdict(self).items() if k not in ("name", "dataset")}
        return hashlib.sha256(_canonical(asked).encode()).hexdigest()[:16]

    def splits(self) -> list[str]:
        """The splits that the dataset has. Raises `TaskError` where it cannot be read."""
        return splits_of(self.dataset, f"tasks.{self.name}")

    def load(self, split: str) -> tuple[Example, ...]:
        """Every row of a split. Raises `TaskError` naming task, row and column."""
        if split not in self.splits():
            raise TaskError(
                f"tasks.{self.name}: has no split {split!r}; {', '.join(self.splits())}"
            )
        return _load(_Frozen(self), split)

    def _example(self, row: Mapping[str, Any], index: int) -> Example:
        where = f"tasks.{self.name}: row {index}"
        for column in (*self.columns.values(), *_NAME.findall(self.prompt)):
            if row.get(column) is None:
                raise TaskError(f"{where}: column {column!r} is missing or empty")
        found = {key: row[column] for key, column in self.columns.items()}
        images = [found["image"]] if "image" in found else list(found.get("images", ()))
        prompt = _NAME.sub(lambda match: str(row[match[1]]), self.prompt)
        options: tuple[str, ...] = ()
        if self.kind == "multiple_choice":
            options = tuple(str(option) for option in found["options"])
            found["references"] = options[_answer_index(found["answer"], options, where)]
        references = _strings(found["references"])
        if not references:
            raise TaskError(f"{where}: column {self.columns['references']!r} holds no reference")
        pictures = tuple(Picture.of(image) for image in images)
        return Example(str(found.get("id", index)), prompt, references, pictures, options)


@dataclass(frozen=True, eq=False)
class _Frozen:
    """A task as a cache key, which a dataclass of mappings cannot be itself."""

    task: Task

    @cached_property
    def key(self) -> str:
        return _canonical(asdict(self.task))

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Frozen) and self.key == other.key


def _canonical(content: object) -> str:
    return json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)


@lru_cache(maxsize=64)
def _load(key: _Frozen, split: str) -> tuple[Example, ...]:
    task = key.task
    rows = load_rows(task.dataset, split, f"tasks.{task.name}")
    examples = tuple(task._example(row, i) for i, row in enumerate(rows))
    if not examples:
        raise TaskError(f"tasks.{task.name}: split {split} is empty")
    return examples


def build_tasks(node: Mapping[str, Any] | None) -> dict[str, Task]:
    """The tasks of a config group: name -> task."""
    if not node:
        raise TaskError("tasks: name at least one, as tasks=quickstart_ja")
    tasks = {}
    for name, described in node.items():
        if not isinstance(described, Mapping):
            raise TaskError(f"tasks.{name}: describes no task")
        target = {"_target_": "vlmmerge.tasks.Task", **described}
        check_keys(target, [*Task.__dataclass_fields__, "_target_"], f"tasks.{name}")
        tasks[name] = build(target, f"tasks.{name}", name=name)
    return tasks


def check_overlap(tasks: Iterable[Task], search: str, holdout: str) -> None:
    """Refuse splits that share a picture or a question, across all tasks.

    Raises `TaskError` naming both rows.
    """
    seen: dict[str, str] = {}
    tasks = list(tasks)
    for task in tasks:
        for example in task.load(search):
            for key in {example.digest, example.unit}:
                seen.setdefault(key, f"{task.name} row {example.id}")
    for task in tasks:
        for example in task.load(holdout):
            for key in (example.digest, example.unit):
                if key in seen:
                    raise TaskError(
                        f"tasks.{task.name}: {holdout} row {example.id} is in {search} too"
                        f" ({seen[key]}); scores on rows that were searched on mean nothing"
                    )


def _answer_index(answer: Any, options: Sequence[str], where: str) -> int:
    if isinstance(answer, str) and answer in options:
        return options.index(answer)
    if isinstance(answer, str) and len(answer) == 1 and answer.isalpha():
        answer = ord(answer.upper()) - ord("A")
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(options):
        return answer
    raise TaskError(f"{where}: the answer {answer!r} is none of its {len(options)} options")


def _strings(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, Sequence):
        return tuple(str(item) for item in value)
    return (str(value),)
