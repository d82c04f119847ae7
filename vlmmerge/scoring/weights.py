"""A model in memory with every weight that its folder says, or not at all."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from vlmmerge.anatomy.anatomy import model_class
from vlmmerge.checkpoints import Checkpoint
from vlmmerge.config import one_line
from vlmmerge.errors import CheckpointError

# What transformers raises for weights that do not make the model of their config.
_BROKEN = (
    *(OSError, ValueError, KeyError, TypeError, IndexError, AttributeError),
    *(RuntimeError, ImportError),
)


def load_model(checkpoint: Checkpoint, config: Any, dtype: Any) -> tuple[Any, str | None]:
    """The model of a checkpoint, and a note where its folder has weights that are none of it.

    transformers would draw at random what is missing or of another shape. Raises `CheckpointError`
    there, but not for what it expects to be missing: the other names of a tied weight.
    """
    kind = model_class(config)
    try:
        with _silent():
            model, info = kind.from_pretrained(
                checkpoint.path,
                dtype=dtype,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # to be told which
                output_loading_info=True,
            )
    except _BROKEN as error:
        raise CheckpointError(
            f"{checkpoint.path}: its weights cannot be loaded ({one_line(error)})"
        ) from error
    if missing := sorted(info["missing_keys"]):
        raise CheckpointError(
            f"{checkpoint.path}: {_counted(missing, 'missing')}; fetch the model again"
        )
    if odd := sorted(f"{name} of {tuple(a)}" for name, a, _ in info["mismatched_keys"]):
        raise CheckpointError(
            f"{checkpoint.path}: {_counted(odd, 'of another shape than its config says')}"
        )
    if errors := list(info["error_msgs"]):
        raise CheckpointError(
            f"{checkpoint.path}: its weights cannot be loaded ({one_line(errors[0])})"
        )
    unused = sorted(info["unexpected_keys"])
    return model, _counted(unused, "no part of the model") if unused else None


def _counted(names: Iterable[str], what: str) -> str:
    first, *others = names
    return (
        f"1 weight is {what}, {first}"
        if not others
        else (f"{1 + len(others)} weights are {what}, {first} first")
    )


@contextmanager
def _silent() -> Iterator[None]:
    """Without transformers' bars and tables, which would stand between lines of ours."""
    from transformers.utils import logging as told

    shown, level = told.is_progress_bar_enabled(), told.get_verbosity()
    told.disable_progress_bar()
    told.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        told.set_verbosity(level)
        if shown:
            told.enable_progress_bar()
