"""Examples as model inputs: chat template, tokenizer and image processor, each run once."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmmerge.config import one_line
from vlmmerge.errors import TaskError
from vlmmerge.scoring.processors import PictureKey, Remembering, load_processor, load_tokenizer
from vlmmerge.scoring.prompts import prompt_text
from vlmmerge.tasks import Example, Picture, Task

if TYPE_CHECKING:
    import torch

_SEQUENCE = ("input_ids", "attention_mask")


@dataclass(frozen=True)
class Encoded:
    """A prompt as token ids.

    `extras` are other inputs of the same length (token types), `others` those of another shape,
    which keep a row from being batched. `options` are what may follow: the options of a multiple
    choice, or the one text whose perplexity is asked for, of `continuation_bytes` bytes.
    """

    ids: tuple[int, ...]
    extras: Mapping[str, tuple[int, ...]]
    pictures: PictureKey
    options: tuple[tuple[int, ...], ...] = ()
    others: Mapping[str, "torch.Tensor"] = field(default_factory=dict)
    continuation_bytes: int = 0


class Encoder:
    """Makes inputs of examples with the model's own processor; every picture's pixels once.

    `notes` tell what of the processor is not as transformers has it.
    """

    def __init__(self, path: Path, has_vision: bool) -> None:
        self.notes: tuple[str, ...] = ()
        self._processor: Any
        if has_vision:
            self._processor, note = load_processor(path)
            self.notes = (note,) if note else ()
        else:
            self._processor = load_tokenizer(path)
        self.tokenizer: Any = getattr(self._processor, "tokenizer", self._processor)
        self._has_vision = has_vision and self._processor is not self.tokenizer
        if self._has_vision:
            self._images = Remembering(self._processor.image_processor)
            self._processor.image_processor = self._images

    def encode(self, task: Task, example: Example) -> Encoded:
        """One example's inputs. Raises `TaskError` where the model cannot take its pictures."""
        pictures = [*(p for turn in example.turns for p in turn.pictures), *example.pictures]
        if pictures and not self._has_vision:
            raise TaskError(f"tasks.{task.name}: has pictures and the model takes none")
        text = self._text(task, example)
        key = tuple(picture.digest for picture in pictures)
        inputs = self._with_pictures(task, text, key, pictures) if pictures else self._alone(text)
        shape = inputs["input_ids"].shape
        others = {
            name: value
            for name, value in inputs.items()
            if name not in _SEQUENCE and not (pictures and name in self._images.names)
        }
        extras = {n: tuple(v[0].tolist()) for n, v in others.items() if v.shape == shape}
        followed = example.references[:1] if task.kind == "perplexity" else example.options
        return Encoded(
            tuple(inputs["input_ids"][0].tolist()) or (self._first,),
            extras,
            key,
            tuple(self._tokens(option) for option in followed),
            {n: v for n, v in others.items() if v.shape != shape},
            len(followed[0].encode()) if followed else 0,
        )

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Answers as text, without special tokens."""
        texts: list[str] = self.tokenizer.batch_decode(rows, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def pixels(self, key: PictureKey) -> Mapping[str, Any]:
        """The pixel inputs of an encoded example's pictures."""
        return self._images.pixels(key)

    def _with_pictures(
        self, task: Task, text: str, key: PictureKey, pictures: Sequence[Picture]
    ) -> Mapping[str, Any]:
        images = self._images.expect(key, pictures)
        options = {"add_special_tokens": False} if self._has_first(text) else {}
        try:
            inputs: Mapping[str, Any] = self._processor(
                text=[text], images=[list(images)], return_tensors="pt", **options
            )
        except (ValueError, TypeError, IndexError) as error:
            raise TaskError(
                f"tasks.{task.name}: the model's processor does not take a row ({one_line(error)})"
            ) from error
        return inputs

    def _alone(self, text: str) -> Mapping[str, Any]:
        # A language model's chat template brings its special tokens; so may a VLM's.
        special = self._has_vision and not self._has_first(text)
        inputs: Mapping[str, Any] = self.tokenizer(
            [text], add_special_tokens=special, return_tensors="pt"
        )
        return inputs

    def _has_first(self, text: str) -> bool:
        first = self.tokenizer.bos_token
        return first is not None and text.startswith(first)

    @property
    def _first(self) -> int:
        """What stands before a text that nothing stands before."""
        for token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        raise TaskError("a text without a prompt needs a tokenizer with a first or a last token")

    def _tokens(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _text(self, task: Task, example: Example) -> str:
        return prompt_text(task, example, self._processor, self._place, self._has_vision)

    @lru_cache(maxsize=1)  # noqa: B019 - an encoder lives as long as its run
    def _place(self) -> str | None:
        """What stands before a plain text for a picture; None where the processor puts it there."""
        token: str = getattr(self._processor, "image_token", "<image>")
        bare, named = self._tried("?"), self._tried(f"{token}?")
        if self.tokenizer.convert_tokens_to_ids(token) not in bare:
            return f"{token}\n"
        return token if named == bare else None

    def _tried(self, text: str) -> list[int]:
        """Ids of a text about a picture; none where the processor does not take it."""
        from PIL import Image
        from transformers.utils.logging import get_verbosity, set_verbosity

        blank = [[Image.new("RGB", (64, 64))]]
        before = get_verbosity()
        set_verbosity(logging.ERROR)
        try:
            inputs = self._processor(text=[text], images=blank, return_tensors="pt")
        except (ValueError, TypeError, IndexError):
            return []
        finally:
            set_verbosity(before)
        ids: list[int] = inputs["input_ids"][0].tolist()
        return ids
