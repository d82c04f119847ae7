"""A model's own processor: as transformers builds it, or without the part that reads videos."""

import copy
import logging
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vlmmerge.config import one_line
from vlmmerge.errors import CheckpointError
from vlmmerge.scoring.store import Store
from vlmmerge.tasks import Picture

_LOG = logging.getLogger(__name__)
_BROKEN = (ValueError, OSError, ImportError, KeyError, TypeError)

PictureKey = tuple[str, ...]  # the pictures of an example, by digest


def load_tokenizer(path: Path) -> Any:
    """The tokenizer of a model's folder. Raises `CheckpointError` where it cannot be built."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except _BROKEN as error:
        raise CheckpointError(
            f"{path}: its tokenizer cannot be built ({one_line(error)})"
        ) from error


def load_processor(path: Path) -> tuple[Any, str | None]:
    """The processor of a model's folder, and a note where it is not whole.

    Where transformers cannot build it because the part that reads videos needs libraries that are
    not there, it is built without that part. Raises `CheckpointError` where that fails too.
    """
    import transformers

    auto: Any = transformers.AutoProcessor
    try:
        return auto.from_pretrained(path, trust_remote_code=False), None
    except _BROKEN as error:
        missing = error
    kind = None
    try:
        if find_spec("torchvision") is None and (kind := _without_videos(path)):
            processor = kind.from_pretrained(path, trust_remote_code=False)
    except _BROKEN as error:
        raise _cannot(path, error) from error
    if kind is None:
        raise _cannot(path, missing) from missing
    note = "its processor is used without the part that reads videos, which needs torchvision"
    _LOG.info("%s: %s", path, note)
    return processor, note


def _cannot(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path}: its processor cannot be built ({one_line(error)})")


def _without_videos(path: Path) -> Any:
    """The class of a folder's processor, made to do without videos; None where it takes none."""
    from transformers import AutoConfig
    from transformers.models.auto import processing_auto

    known: Any = processing_auto
    config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    name = known.PROCESSOR_MAPPING_NAMES[config.model_type]
    kind = known.processor_class_from_name(name)
    parts = kind.get_attributes()
    kept = [part for part in parts if "video" not in part]
    # Parts are handed over by place: only the last may be left out.
    if kept == parts or parts[: len(kept)] != kept:
        return None
    # transformers builds the parts that `get_attributes` names, and goes by the class's name.
    return type(kind.__name__, (kind,), {"get_attributes": classmethod(lambda _: kept)})


class Remembering:
    """An image processor that gives again what it gave for the same pictures.

    A processor runs it for every question; the pictures come up once in a run.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._asked: tuple[PictureKey, Sequence[Any]] = ((), ())
        self._given: dict[PictureKey, Any] = {}  # the outputs without tensors: class and the rest
        self.store = Store()
        self.names: set[str] = set()

    def expect(self, key: PictureKey, pictures: Sequence[Picture]) -> Sequence[Any]:
        """The images of the next call, known by these digests; decoded anew for other pictures."""
        if self._asked[0] != key:
            self._asked = (key, [picture.image for picture in pictures])
        return self._asked[1]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __call__(self, images: Any, **options: Any) -> Any:
        key, expected = self._asked
        given = list(_flat(images))
        known = len(given) == len(expected) and all(
            mine is theirs for mine, theirs in zip(given, expected, strict=True)
        )
        if known and key in self._given:
            again = copy.copy(self._given[key])
            again.data = dict(self.store[key])
            return again
        made = self._inner(images, **options)
        self.names |= set(made.keys())
        if known:
            self.store.add(key, dict(made.data))
            empty = copy.copy(made)
            empty.data = {}
            self._given[key] = empty
        return made

    def pixels(self, key: PictureKey) -> Mapping[str, Any]:
        """What came of the pictures: a model's pixel inputs among it."""
        found: Mapping[str, Any] = self.store[key]
        return found


def _flat(images: Any) -> Any:
    if isinstance(images, list | tuple):
        for image in images:
            yield from _flat(image)
    else:
        yield images
