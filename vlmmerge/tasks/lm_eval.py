"""Tasks of lm-eval: its datasets, prompts and metrics, as tasks of ours (extra `lm-eval`)."""

import hashlib
import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from vlmmerge.errors import TaskError
from vlmmerge.tasks.example import Example
from vlmmerge.tasks.lm_eval_loading import check_trusted, contained, listed, load, means, named
from vlmmerge.tasks.splitting import HOLDOUT, SEARCH, drawn, shares

ALL = "all"

# What says where rows lie, not what is asked.
_PLACES = ("dataset_path", "dataset_name", "dataset_kwargs", "metadata", "task")

ChatTemplate = Callable[..., str]


@dataclass(frozen=True)
class LmEvalTask:
    """A task of lm-eval, in YAML as `{kind: lm_eval, task: arc_easy, metric: acc}`.

    lm-eval makes its prompts and scores its answers; its search and holdout rows are drawn by
    `seed` from the split that lm-eval evaluates, `holdout` being the holdout's share. `all` is the
    whole of it. `task`: its name, packaged or in `include_path`, a folder of lm-eval task files.
    Those may run code, so that the command line must trust the folder: `trust=[FOLDER]`. `metric`
    and `filter` as lm-eval names them; the metric is one that lm-eval takes the mean of.
    `num_fewshot` as lm-eval's own option; examples that would be rows of a split are refused.
    `chat`: by the model's chat template, the examples as turns of it. `limit`: rows drawn by the
    seed. `batch`: rows of one pass, which does not change what is answered.
    """

    name: str
    task: str
    metric: str
    kind: Literal["lm_eval"] = "lm_eval"
    filter: str | None = None
    include_path: str | None = None
    num_fewshot: int | None = None
    chat: bool = False
    system: str | None = None
    language: str | None = None
    holdout: float = 0.5
    limit: int | None = None
    seed: int = 0
    batch: int = 16

    def __post_init__(self) -> None:
        for name, least in (("num_fewshot", 0), ("limit", 1), ("seed", 0), ("batch", 1)):
            value = self.__dict__[name]
            if value is not None and (type(value) is not int or value < least):
                raise TaskError(f"{self.where}.{name}: {value!r} is no whole number from {least}")
        if isinstance(self.holdout, bool) or not 0 < self.holdout < 1:
            raise TaskError(f"{self.where}.holdout: {self.holdout!r} is no share between 0 and 1")
        if self.include_path is not None:
            check_trusted(Path(self.include_path), self.where)

    @property
    def where(self) -> str:
        """How messages name it."""
        return f"tasks.{self.name}"

    @cached_property
    def loaded(self) -> Any:
        """lm-eval's own task object. Raises `TaskError` where it cannot be used."""
        return load(self)

    @property
    def higher_is_better(self) -> bool:
        return bool(self.loaded.higher_is_better()[self.metric])

    @cached_property
    def filtered_by(self) -> str:
        """The name of the filter that answers go through; the only one, where none is named."""
        names = [filter_.name for filter_ in self.loaded._filters]
        if self.filter is None and len(names) == 1:
            return str(names[0])
        if self.filter not in names:
            raise TaskError(f"{self.where}.filter: {self.filter!r} is not one of {listed(names)}")
        return str(self.filter)

    @property
    def means(self) -> list[str]:
        """The metrics that are means over rows."""
        return means(self.loaded)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all that decides a score but the rows, wherever they lie."""
        ours = ("metric", "filter", "chat", "system", "language")
        described = {
            "lm_eval": importlib.import_module("lm_eval").__version__,
            "version": self.loaded.VERSION,
            "config": {k: v for k, v in self.loaded.dump_config().items() if k not in _PLACES},
            **{k: v for k, v in asdict(self).items() if k in ours},
        }
        return hashlib.sha256(_canonical(described).encode()).hexdigest()[:16]

    def splits(self) -> list[str]:
        """`search` and `holdout`, which share no question, and `all`."""
        return [ALL, HOLDOUT, SEARCH]

    def load(self, split: str) -> tuple[Example, ...]:
        """The rows of a split. Raises `TaskError` where lm-eval cannot make them."""
        return tuple(self._examples[i] for i in self.documents(split))

    def skipped(self, split: str) -> tuple[()]:
        """None: lm-eval has no bad rows, it fails."""
        return ()

    def documents(self, split: str) -> tuple[int, ...]:
        """For every row of a split its place in the split that lm-eval evaluates."""
        if split not in self._places:
            raise TaskError(f"{self.where}: has no split {split!r}; {', '.join(self.splits())}")
        return self._places[split]

    def references(self, place: int) -> tuple[str, ...]:
        """The right answers of a document."""
        return self._examples[place].references

    def requests(self, chat_template: ChatTemplate | None = None) -> list[list[Any]]:
        """What lm-eval asks of a model for every document of its split, in order.

        All at once and from one seed: lm-eval draws few-shot examples one document after the
        other, so that a document's prompt would else depend on which others are asked.
        """
        task, defaults = self.loaded, importlib.import_module("lm_eval.defaults")
        task.set_fewshot_seed(seed=defaults.DEFAULT_OTHER_SEED)
        asked = []
        with contained(), named(self.where, "its prompts cannot be made"):
            for place, document in enumerate(self._documents):
                context = task.fewshot_context(
                    document,
                    num_fewshot=task.config.num_fewshot,
                    system_instruction=self.system,
                    apply_chat_template=chat_template is not None,
                    fewshot_as_multiturn=chat_template is not None,
                    chat_template=chat_template,
                    gen_prefix=task.doc_to_prefix(document),
                )
                made = task.construct_requests(
                    doc=document,
                    ctx=context,
                    metadata=(task.config.task, place, task.config.repeats),
                    apply_chat_template=chat_template is not None,
                    chat_template=chat_template,
                )
                asked.append(made if isinstance(made, list) else [made])
        return asked

    @cached_property
    def _documents(self) -> list[Any]:
        return list(self.loaded.eval_docs)

    @cached_property
    def _places(self) -> Mapping[str, tuple[int, ...]]:
        chosen: Sequence[int] = range(len(self._documents))
        if self.limit is not None:
            chosen = drawn(chosen, self.limit, self.seed)
        examples = [self._examples[i] for i in chosen]
        parts = shares(examples, [""] * len(examples), self.holdout, self.seed, self.where)
        found = {split: tuple(chosen[row] for row in rows) for split, rows in parts.items()}
        return {ALL: tuple(chosen), **found}

    @cached_property
    def _examples(self) -> tuple[Example, ...]:
        asked = self.requests()
        with named(self.where, "its rows cannot be read"):
            return tuple(
                _example(self.loaded, document, place, requests[0].args[0])
                for place, (document, requests) in enumerate(
                    zip(self._documents, asked, strict=True)
                )
            )


def _example(task: Any, document: Any, place: int, context: str) -> Example:
    text, target = task.doc_to_text(document), task.doc_to_target(document)
    options = tuple(map(str, task.doc_to_choice(document))) if task.config.doc_to_choice else ()
    # Where every option has a question of its own, the row's text is the option's number.
    right = text if task.multiple_input else target
    rights = right if isinstance(right, list) else [right]
    references = tuple(options[r] if options and isinstance(r, int) else str(r) for r in rights)
    own = text if isinstance(text, str) and text.strip() else _canonical(document)
    return Example(str(place), context, references, options=options, text=own)


def _canonical(content: object) -> str:
    return json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
