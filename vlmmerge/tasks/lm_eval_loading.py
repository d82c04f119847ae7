"""Loading a task of lm-eval: what can be wrong with it, and lm-eval kept to itself."""

import importlib
import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import TemplateError

from vlmmerge import config
from vlmmerge.config import one_line, unknown
from vlmmerge.errors import ConfigError, TaskError

if TYPE_CHECKING:
    from vlmmerge.tasks.lm_eval import LmEvalTask

# What lm-eval, jinja and datasets raise for a task that cannot be used.
REFUSALS = (
    *(KeyError, ValueError, TypeError, AttributeError, IndexError, OSError),
    *(ImportError, AssertionError, RuntimeError, TemplateError),
)


def load(task: "LmEvalTask") -> Any:
    """lm-eval's own object of a task, checked. Raises `TaskError` where it cannot be used."""
    with contained():
        loaded = _found(task)
    _check(task, loaded)
    _set_fewshot(task, loaded)
    return loaded


def _found(task: "LmEvalTask") -> Any:
    try:
        tasks = importlib.import_module("lm_eval.tasks")
    except ImportError as error:
        raise TaskError(
            f"{task.where}: lm-eval is needed ({one_line(error)}); pip install 'vlmmerge[lm-eval]'"
        ) from error
    manager = tasks.TaskManager(
        include_path=task.include_path, include_defaults=task.include_path is None
    )
    if task.task not in manager.task_index:
        raise TaskError(unknown(f"{task.where}.task", task.task, manager.all_tasks))
    with named(task.where, "lm-eval cannot load it"):
        found = manager.load([task.task])["tasks"]
    if list(found) != [task.task]:
        raise TaskError(
            f"{task.where}.task: {task.task!r} is several tasks; name one: {listed(found)}"
        )
    return found[task.task]


def _set_fewshot(task: "LmEvalTask", loaded: Any) -> None:
    """As lm-eval's `num_fewshot`; refused where the examples would come from the rows asked."""
    fixed = loaded.config.num_fewshot
    if fixed == 0 and task.num_fewshot:
        raise TaskError(f"{task.where}.num_fewshot: the task itself allows none")
    number = fixed if task.num_fewshot is None else task.num_fewshot
    loaded.set_config(key="num_fewshot", value=number or 0)
    if not number:
        return
    settings, asked = loaded.config, _evaluated(loaded)
    shown = loaded.fewshot_cfg.split
    if shown is None and loaded.fewshot_cfg.samples is None:
        shown = settings.training_split or settings.validation_split or settings.test_split
    if shown == asked:
        raise TaskError(
            f"{task.where}.num_fewshot: examples would be rows of {asked}, which are scored;"
            " use a task with a fewshot_split of its own, or num_fewshot: 0"
        )


def _check(task: "LmEvalTask", loaded: Any) -> None:
    if loaded.config.doc_to_image is not None or loaded.config.doc_to_audio is not None:
        raise TaskError(f"{task.where}.task: lm-eval tasks with images or sound cannot be used")
    if loaded.config.unsafe_code:
        raise TaskError(f"{task.where}.task: it runs what a model writes, which is refused")
    if task.metric not in means(loaded):
        every = loaded.aggregation()
        how = " is not a mean over rows;" if task.metric in every else " is not known;"
        raise TaskError(
            f"{task.where}.metric: {task.metric!r}{how} there are {listed(means(loaded))}"
        )
    asked = loaded.config.generation_kwargs or {}
    if asked.get("do_sample") or ("do_sample" not in asked and asked.get("temperature")):
        raise TaskError(
            f"{task.where}.task: draws its answers at random, and no score would come twice"
        )


def means(loaded: Any) -> list[str]:
    """The metrics of a loaded task that lm-eval takes the mean of over rows."""
    mean = importlib.import_module("lm_eval.api.metrics").mean
    return [name for name, how in loaded.aggregation().items() if how is mean]


@contextmanager
def named(where: str, what: str) -> Iterator[None]:
    """Whatever lm-eval raises inside is a `TaskError` that says what it is about."""
    try:
        yield
    except REFUSALS as error:
        raise TaskError(f"{where}: {what} ({one_line(error)})") from error


@contextmanager
def contained(devices: Sequence[Any] = ()) -> Iterator[None]:
    """lm-eval at work: the global generators come out as they went in (those of `devices` too).

    Its remarks and the bars of datasets, which would stand between lines of ours, are left out.
    """
    import datasets
    import torch

    # An old interface: new code has generators of its own.
    numpy_state = np.random.get_state()  # noqa: NPY002
    python_state = random.getstate()
    logger, bars = logging.getLogger("lm_eval"), not datasets.are_progress_bars_disabled()
    level = logger.level
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        logger.setLevel(level)
        if bars:
            datasets.enable_progress_bars()


def check_trusted(folder: Path, where: str) -> None:
    """Raises `ConfigError` for a folder of task files that the command line does not name."""
    if not folder.is_dir():
        raise ConfigError(f"{where}.include_path: {folder}: no such folder")
    place = folder.resolve()
    if not any(place.is_relative_to(Path(entry).resolve()) for entry in config.trusted):
        raise ConfigError(
            f"{where}.include_path: lm-eval's task files may run code; trust=[{folder}] on the"
            " command line allows it"
        )


def listed(names: Any) -> str:
    """Names as a message lists them."""
    return ", ".join(sorted(map(str, names))) or "none"


def _evaluated(loaded: Any) -> str:
    return str(loaded.config.test_split or loaded.config.validation_split)
