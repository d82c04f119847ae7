"""Examples as model inputs: chat template, tokenizer and image processor, each run once."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import takewhile
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
    choice, or the one text whose perplexity is asked for, of `continuation_bytes` bytes. Where a
    prompt's last token is another one with an option behind it, it stands in all options.
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
        special = self._needs_special(task, text)
        inputs = (
            self._with_pictures(task, text, key, pictures, special)
            if pictures
            else self.tokenizer([text], add_special_tokens=special, return_tensors="pt")
        )
        inputs = self._unended(text, inputs)
        shape = inputs["input_ids"].shape
        others = {
            name: value
            for name, value in inputs.items()
            if name not in _SEQUENCE and not (pictures and name in self._images.names)
        }
        extras = {n: tuple(v[0].tolist()) for n, v in others.items() if v.shape == shape}
        followed = example.references[:1] if task.kind == "perplexity" else example.options
        row = Encoded(
            tuple(inputs["input_ids"][0].tolist()),
            extras,
            key,
            others={n: v for n, v in others.items() if v.shape != shape},
            continuation_bytes=len(followed[0].encode()) if followed else 0,
        )
        row = self._followed(row, text, followed) if followed else row
        if blank := [text for text, ids in zip(followed, row.options, strict=True) if not ids]:
            raise TaskError(
                f"tasks.{task.name}: row {example.id}: {blank[0]!r} is no token of the model's"
            )
        return row if row.ids else replace(row, ids=(self._first,))

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Answers as text, without special tokens."""
        texts: list[str] = self.tokenizer.batch_decode(rows, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def pixels(self, key: PictureKey) -> Mapping[str, Any]:
        """The pixel inputs of an encoded example's pictures."""
        return self._images.pixels(key)

    def _with_pictures(
        self,
        task: Task,
        text: str,
        key: PictureKey,
        pictures: Sequence[Picture],
        special: bool,
    ) -> Mapping[str, Any]:
        images = self._images.expect(key, pictures)
        options = {} if special else {"add_special_tokens": False}
        try:
            inputs: Mapping[str, Any] = self._processor(
                text=[text], images=[list(images)], return_tensors="pt", **options
            )
        except (ValueError, TypeError, IndexError) as error:
            raise TaskError(
                f"tasks.{task.name}: the model's processor does not take a row ({one_line(error)})"
            ) from error
        return inputs

    def _needs_special(self, task: Task, text: str) -> bool:
        """Whether the tokenizer's own tokens go around a text: its first one, above all.

        A language model's chat template brings them; so may a VLM's.
        """
        templated = text and task.chat is True and self._processor.chat_template
        return not self._has_first(text) and (self._has_vision or not templated)

    def _unended(self, text: str, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Without the last token that some tokenizers end a text with: this one goes on."""
        end, ids = self.tokenizer.eos_token, inputs["input_ids"]
        width = ids.shape[1]
        if width < 2 or int(ids[0, -1]) != self.tokenizer.eos_token_id or text.endswith(end):
            return inputs
        pictured = self._images.names if self._has_vision else set()
        return {
            name: value if name in pictured else _cut(value, width, width - 1)
            for name, value in inputs.items()
        }

    def _followed(self, row: Encoded, text: str, options: Sequence[str]) -> Encoded:
        """The row with options behind it, as they are tokenised behind what stands before them.

        The prompt ends where it has the same tokens with every option: all are likelihoods of what
        follows the same tokens.
        """
        whole = len(row.ids)
        # A processor may put something of its own behind the text.
        for before in (text, self.tokenizer.decode(row.ids[-1:])):
            bare, *found = self._tokens([before, *(before + option for option in options)])
            kept = min(_common(bare, ids) for ids in found)
            end = bare[max(0, kept - 1) :]
            if row.ids[whole - len(end) :] == end:
                break
        else:
            kept, bare, found = 0, (), self._tokens(options)
        to = whole - (len(bare) - kept)
        return replace(
            row,
            ids=row.ids[:to],
            extras={name: values[:to] for name, values in row.extras.items()},
            others={name: _cut(value, whole, to) for name, value in row.others.items()},
            options=tuple(ids[kept:] for ids in found),
        )

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

    def _tokens(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        return [tuple(ids) for ids in self.tokenizer(texts, add_special_tokens=False)["input_ids"]]

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


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts begin with alike."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda two: two[0] == two[1], pairs))


def _cut(value: "torch.Tensor", width: int, to: int) -> "torch.Tensor":
    """An input's first columns, where it has one for every token."""
    return value[:, :to] if value.dim() > 1 and value.shape[1] == width else value
