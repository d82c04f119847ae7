"""Task: a dataset, how its rows are asked, and the metric of the answers."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any, Literal

from vlmmerge.config import build, check_keys
from vlmmerge.errors import TaskError
from vlmmerge.tasks.checking import check
from vlmmerge.tasks.example import Example
from vlmmerge.tasks.lm_eval import LmEvalTask
from vlmmerge.tasks.loading import Key, Skipped, load, split_names
from vlmmerge.tasks.splitting import HOLDOUT, SEARCH

# Fields of the first tasks. Later ones are in a fingerprint only where they say something, so that
# a field that is added changes no fingerprint.
_FIRST = (
    *("columns", "prompt", "metric", "kind", "system", "language", "tokenizer", "metrics"),
    *("max_new_tokens", "normalization", "higher_is_better", "metric_options"),
)

Columns = Mapping[str, str | Sequence[str]]


@dataclass(frozen=True)
class Task:
    """A task as its YAML describes it; docs/tasks.md says it at length.

    `dataset`: `path` (a hub id or a folder; parquet, jsonl, csv, txt, images), `name` (a config, or
    several that follow each other), `revision`, `data_files` by split, `data_dir`. `columns`: where
    image(s), references, options and answer are found, nested ones by dotted names. `prompt` is a
    template over the columns, as `{question}`; `{options}` lists a multiple choice's options.
    `system` is a text. `chat`: the model's chat template (true), none (false), or one of the
    task's own. `splits`: names, or a share (see `shares`).
    """

    name: str
    dataset: Mapping[str, Any]
    columns: Columns
    prompt: str
    metric: str
    kind: Literal["generate", "multiple_choice", "perplexity"] = "generate"
    system: str | None = None
    language: str | None = None
    tokenizer: str | None = None
    metrics: tuple[str, ...] = ()
    max_new_tokens: int = 32
    normalization: Literal["sum", "token", "char", "byte"] = "sum"
    higher_is_better: bool = True
    metric_options: Mapping[str, Any] = field(default_factory=dict)
    # How it is asked.
    chat: bool | str = True
    generation: Mapping[str, Any] = field(default_factory=dict)  # max_new_tokens, stop
    fewshot: int | Mapping[str, Any] = 0  # or {n, seed, split}
    # How it is answered.
    answered_by: Literal["likelihood", "generation"] = "likelihood"
    scored: Literal["text", "letter"] = "text"
    delimiter: str = ""  # stands before an option whose likelihood is taken
    mutual_information: bool | str = False  # true, or the prompt that says nothing
    rotations: Literal["mean", "majority"] | None = None
    extract: str | Mapping[str, str] | None = None  # number, or {regex, which}
    blank_wrong_language: bool = False  # an answer in another language counts as empty
    # Which rows there are.
    filter: Mapping[str, Any] | None = None
    explode: str | None = None
    splits_by: Mapping[str, Any] | None = None  # `splits` in YAML
    limit: int | None = None  # of a split of the dataset
    seed: int = 0
    streaming: bool = False
    max_pixels: int = 64 * 1024 * 1024
    on_bad_row: Literal["refuse", "skip"] = "refuse"

    def __post_init__(self) -> None:
        check(self)

    @property
    def where(self) -> str:
        """How messages name it."""
        return f"tasks.{self.name}"

    @property
    def fingerprint(self) -> str:
        """A hash of all that decides a score but the rows, wherever they lie."""
        asked = {
            f.name: value
            for f in fields(self)
            if f.name not in ("name", "dataset")
            and ((value := self.__dict__[f.name]) != _DEFAULTS.get(f.name) or f.name in _FIRST)
        }
        if source := {
            k: self.dataset[k] for k in ("name", "revision", "data_dir") if self.dataset.get(k)
        }:
            asked["dataset"] = source
        return hashlib.sha256(_canonical(asked).encode()).hexdigest()[:16]

    @cached_property
    def content(self) -> str:
        """All that it says, as text."""
        return _canonical(asdict(self))

    @property
    def has_pictures(self) -> bool:
        return "image" in self.columns or "images" in self.columns

    @property
    def weighs_options(self) -> bool:
        """Whether an option is chosen by its likelihood."""
        return self.kind == "multiple_choice" and self.answered_by == "likelihood"

    @property
    def new_tokens(self) -> int:
        """How many tokens an answer may have."""
        tokens: int = self.generation.get("max_new_tokens", self.max_new_tokens)
        return tokens

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts that end an answer."""
        given = self.generation.get("stop") or ()
        return (given,) if isinstance(given, str) else tuple(given)

    @property
    def share(self) -> float | None:
        """The share of the rows that is held out, where the task divides a split itself."""
        held = (self.splits_by or {}).get(HOLDOUT)
        return None if isinstance(held, bool | str) or held is None else float(held)

    @property
    def shots(self) -> int:
        """How many questions are shown with their answers before each."""
        number: int = self._fewshot.get("n", 0)
        return number

    @property
    def shots_seed(self) -> int:
        seed: int = self._fewshot.get("seed", 0)
        return seed

    @property
    def shots_from(self) -> str:
        return str(self._fewshot.get("split", SEARCH))

    @property
    def _fewshot(self) -> Mapping[str, Any]:
        return self.fewshot if isinstance(self.fewshot, Mapping) else {"n": self.fewshot}

    def splits(self) -> list[str]:
        """The splits that the task has. Raises `TaskError` where its dataset cannot be read."""
        return split_names(self)

    def load(self, split: str) -> tuple[Example, ...]:
        """Every usable row of a split. Raises `TaskError` naming task, row and column."""
        return load(Key(self), split).examples

    def skipped(self, split: str) -> tuple[Skipped, ...]:
        """The rows of a split that are left out, with `on_bad_row: skip`."""
        return load(Key(self), split).skipped


_DEFAULTS = {
    f.name: f.default_factory() if callable(f.default_factory) else f.default for f in fields(Task)
}


def _canonical(content: object) -> str:
    return json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)


# What has splits of rows and a metric; only a scorer and what it uses tell them apart.
AnyTask = Task | LmEvalTask


def build_tasks(node: Mapping[str, Any] | None) -> dict[str, AnyTask]:
    """The tasks of a config group: name -> task."""
    if not node:
        raise TaskError("tasks: name at least one, as tasks=quickstart_ja")
    tasks: dict[str, AnyTask] = {}
    known = {"splits" if name == "splits_by" else name for name in Task.__dataclass_fields__}
    for name, described in node.items():
        if not isinstance(described, Mapping):
            raise TaskError(f"tasks.{name}: describes no task")
        if described.get("kind") == "lm_eval":
            check_keys(described, LmEvalTask.__dataclass_fields__, f"tasks.{name}")
            node = {"_target_": "vlmmerge.tasks.LmEvalTask", **described}
            tasks[name] = build(node, f"tasks.{name}", name=name)
            continue
        target = {"_target_": "vlmmerge.tasks.Task", **described}
        check_keys(target, [*sorted(known), "_target_"], f"tasks.{name}")
        if "splits" in target:
            target["splits_by"] = target.pop("splits")
        tasks[name] = build(target, f"tasks.{name}", name=name)
    return tasks
