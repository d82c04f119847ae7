"""Examples as model inputs: chat template, tokenizer and image processor, each run once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmmerge.config import one_line
from vlmmerge.errors import CheckpointError, TaskError
from vlmmerge.tasks import Example, Task

if TYPE_CHECKING:
    import torch

_SEQUENCE = ("input_ids", "attention_mask")

# The pictures of an example, by digest: what pixel inputs and image features are shared by.
PictureKey = tuple[str, ...]


@dataclass(frozen=True)
class Encoded:
    """A prompt as token ids; `extras` are other inputs of the same length (token types)."""

    ids: tuple[int, ...]
    extras: Mapping[str, tuple[int, ...]]
    pictures: PictureKey
    options: tuple[tuple[int, ...], ...] = ()


class Encoder:
    """Makes inputs of examples with the model's own processor, and keeps every picture's pixels."""

    def __init__(self, path: Path, has_vision: bool) -> None:
        from transformers import AutoProcessor, AutoTokenizer

        loader = AutoProcessor if has_vision else AutoTokenizer
        try:
            self._processor: Any = loader.from_pretrained(path, trust_remote_code=False)
        except (ValueError, OSError, ImportError, KeyError, TypeError) as error:
            what = "processor" if has_vision else "tokenizer"
            raise CheckpointError(
                f"{path}: its {what} cannot be built ({one_line(error)})"
            ) from error
        self.tokenizer: Any = getattr(self._processor, "tokenizer", self._processor)
        self._has_vision = has_vision
        self.pixels: dict[PictureKey, Mapping[str, torch.Tensor]] = {}

    def encode(self, task: Task, example: Example) -> Encoded:
        """One example's inputs. Raises `TaskError` where the model cannot take its pictures."""
        if example.pictures and not self._has_vision:
            raise TaskError(f"tasks.{task.name}: has pictures and the model takes none")
        text = self._prompt(task, example)
        images = [picture.image for picture in example.pictures]
        inputs = (
            self._processor(text=[text], images=[images], return_tensors="pt")
            if images
            else self.tokenizer([text], add_special_tokens=False, return_tensors="pt")
        )
        ids = inputs["input_ids"][0]
        extras = {
            name: tuple(value[0].tolist())
            for name, value in inputs.items()
            if name not in _SEQUENCE and value.shape == inputs["input_ids"].shape
        }
        key = tuple(picture.digest for picture in example.pictures)
        if key and key not in self.pixels:
            self.pixels[key] = {
                name: value
                for name, value in inputs.items()
                if name not in extras and name not in _SEQUENCE
            }
        options = tuple(
            tuple(self.tokenizer(option, add_special_tokens=False)["input_ids"])
            for option in example.options
        )
        return Encoded(tuple(ids.tolist()), extras, key, options)

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        texts: list[str] = self.tokenizer.batch_decode(rows, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _prompt(self, task: Task, example: Example) -> str:
        content = [
            *({"type": "image"} for _ in example.pictures),
            {"type": "text", "text": example.prompt},
        ]
        if not self._processor.chat_template:
            image = getattr(self._processor, "image_token", "<image>")
            return "\n".join([*(image for _ in example.pictures), example.prompt])
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if not example.pictures:
            # Templates of language models expect plain text.
            messages[0]["content"] = example.prompt if not self._has_vision else content
        if task.system is not None:
            messages.insert(0, {"role": "system", "content": task.system})
        text: str = self._processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False
        )
        return text
