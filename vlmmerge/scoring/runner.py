"""Runner: a model in memory that answers encoded examples, in batches, on threads of its own."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from vlmmerge.anatomy import Anatomy
from vlmmerge.anatomy.anatomy import load_config, model_class
from vlmmerge.checkpoints import Checkpoint
from vlmmerge.errors import ConfigError, EngineError
from vlmmerge.scoring.encoding import Encoded, Encoder
from vlmmerge.scoring.inputs import Inputs

if TYPE_CHECKING:
    import torch

BATCH = 128  # rows of one forward pass, at most

T = TypeVar("T")


def check_device(device: str, where: str) -> None:
    """Refuse a device that torch does not know, or that this machine does not have."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise ConfigError(f"{where}: {device!r} cannot be used ({reason})") from error


@dataclass(frozen=True)
class Pending(Generic[T]):
    """Answers under way: the batches' futures, and how they come together again."""

    batches: Sequence[Future[dict[int, T]]]

    def result(self) -> list[T]:
        """The answers, in the order of what was asked. Raises what a batch raised."""
        parts = [batch.result() for batch in self.batches]
        found = dict(chain.from_iterable(part.items() for part in parts))
        return [found[i] for i in range(len(found))]

    def settle(self) -> None:
        """Come to rest: drop what is not begun, wait for what is."""
        for batch in self.batches:
            batch.cancel()
        wait(self.batches)


class Runner:
    """A model with its encoder.

    On a CPU weights are held and computed with in float32 (bfloat16 is slower there, and changes
    with the batch size) and batches run side by side, each on one of `threads` threads (None: as
    many as there are cores): threads inside small operations wait for each other longer than they
    work, above all on a busy machine. On another device weights have the dtype that they are stored
    in, and batches come one after the other.
    """

    def __init__(
        self, checkpoint: Checkpoint, device: str = "cpu", threads: int | None = None
    ) -> None:
        import torch

        config = load_config(checkpoint)
        on_cpu = torch.device(device).type == "cpu"
        with _no_bars():
            model = model_class(config).from_pretrained(
                checkpoint.path, dtype=torch.float32 if on_cpu else "auto"
            )
        # transformers' types know neither generate nor image features.
        self.model: Any = model.to(device).eval()
        self.anatomy = Anatomy.of(config)
        self.encoder = Encoder(checkpoint.path, has_vision=bool(self.anatomy.frozen))
        self.inputs = Inputs(self.model, self.encoder)
        workers = (threads or cores()) if on_cpu else 1
        self._pool = ThreadPoolExecutor(workers, initializer=_alone if on_cpu else None)

    def generate(self, prompts: Sequence[Encoded], max_new_tokens: int) -> Pending[tuple[str, int]]:
        """Greedy answers and how many tokens each took; the same for any batch size.

        Their result raises `EngineError` where the logits are not numbers.
        """
        return self._submit(lambda rows: self._generate(rows, max_new_tokens), prompts)

    def option_log_likelihoods(self, prompts: Sequence[Encoded]) -> Pending[list[float]]:
        """The log-likelihood of every option of every prompt, summed over its tokens.

        Their result raises `EngineError` where the logits are not numbers.
        """
        return self._submit(self._weigh_options, prompts)

    def _submit(
        self, answer: Callable[[Sequence[Encoded]], list[T]], prompts: Sequence[Encoded]
    ) -> Pending[T]:
        def numbered(batch: Sequence[int]) -> dict[int, T]:
            return dict(zip(batch, answer([prompts[i] for i in batch]), strict=True))

        return Pending([self._pool.submit(numbered, batch) for batch in batches(prompts)])

    def _generate(self, prompts: Sequence[Encoded], max_new_tokens: int) -> list[tuple[str, int]]:
        import torch
        from transformers import GenerationConfig, LogitsProcessorList

        defaults = self.model.generation_config
        pad = self.encoder.tokenizer.pad_token_id
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=defaults.eos_token_id or self.encoder.tokenizer.eos_token_id,
            pad_token_id=defaults.eos_token_id if pad is None else pad,
        )
        inputs = self.inputs.collate(prompts, side="left")
        with torch.inference_mode():
            produced = self.model.generate(
                **inputs,
                generation_config=config,
                logits_processor=LogitsProcessorList([_refuse_nan]),
            )[:, inputs["input_ids"].shape[1] :]
        lengths = (produced != config.pad_token_id).sum(1).tolist()
        return list(zip(self.encoder.decode(produced.tolist()), lengths, strict=True))

    def _weigh_options(self, prompts: Sequence[Encoded]) -> list[list[float]]:
        import torch

        asked = [(prompt, option) for prompt in prompts for option in prompt.options]
        inputs = self.inputs.collate([_joined(*pair) for pair in asked], side="right")
        with torch.inference_mode():
            logits = self.model(**inputs, use_cache=False).logits
        scores = []
        for row, (prompt, option) in zip(logits, asked, strict=True):
            start = len(prompt.ids)
            predicted = row[start - 1 : start - 1 + len(option)].float()
            if bool(predicted.isnan().any()):
                raise EngineError("the model's logits are not numbers (NaN)")
            target = torch.tensor(option, device=predicted.device)[:, None]
            scores.append(float(predicted.log_softmax(-1).gather(1, target).sum()))
        ordered = iter(scores)
        return [[next(ordered) for _ in prompt.options] for prompt in prompts]


def batches(rows: Sequence[Encoded]) -> Iterator[list[int]]:
    """Indices of rows in batches of like kind and length: text apart from pictures.

    The options of a row count each.
    """
    order = sorted(range(len(rows)), key=lambda i: (bool(rows[i].pictures), len(rows[i].ids), i))
    batch: list[int] = []
    size = 0
    for i in order:
        weight = len(rows[i].options) or 1
        other = batch and bool(rows[batch[0]].pictures) != bool(rows[i].pictures)
        if batch and (size + weight > BATCH or other):
            yield batch
            batch, size = [], 0
        batch.append(i)
        size += weight
    if batch:
        yield batch


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _alone() -> None:
    """Have torch compute on the calling thread alone."""
    import torch

    torch.set_num_threads(1)


@contextmanager
def _no_bars() -> Iterator[None]:
    """Without transformers' progress bars, which would stand between lines of ours."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _joined(prompt: Encoded, option: Sequence[int]) -> Encoded:
    """A prompt with an option behind it."""
    extras = {name: (*values, *[0] * len(option)) for name, values in prompt.extras.items()}
    return Encoded((*prompt.ids, *option), extras, prompt.pictures)


def _refuse_nan(input_ids: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
    if bool(scores.isnan().any()):
        raise EngineError("the model's logits are not numbers (NaN)")
    return scores
