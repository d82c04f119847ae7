"""Runner: a model in memory that answers encoded examples, in batches, on threads of its own."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Generic, TypeVar

from vlmmerge.anatomy import Anatomy
from vlmmerge.anatomy.anatomy import load_config
from vlmmerge.checkpoints import Checkpoint
from vlmmerge.errors import ConfigError, EngineError
from vlmmerge.scoring.answering import Answering
from vlmmerge.scoring.batching import BATCH, Halving, batches
from vlmmerge.scoring.encoding import Encoded, Encoder
from vlmmerge.scoring.inputs import Inputs
from vlmmerge.scoring.weights import load_model

# Bytes that a batch on a CPU may take, by an estimate from above; on another device it is a share.
BUDGET = 1 << 30
SHARE = 0.25
SMALL = 8 << 20  # of those bytes, what is not worth a batch on another thread

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

    batches: Sequence[Future[dict[int, Any]]]
    gather: Callable[[list[Any]], list[T]] = list

    def result(self) -> list[T]:
        """The answers, in the order of what was asked. Raises what a batch raised."""
        parts = [batch.result() for batch in self.batches]
        found = dict(chain.from_iterable(part.items() for part in parts))
        return self.gather([found[i] for i in range(len(found))])

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
        model, note = load_model(checkpoint, config, torch.float32 if on_cpu else "auto")
        self._unused = () if note is None else (note,)
        # transformers' types know neither generate nor image features.
        self.model: Any = model.to(device).eval()
        self.anatomy = Anatomy.of(config)
        self.encoder = Encoder(checkpoint.path, has_vision=bool(self.anatomy.frozen))
        self.inputs = Inputs(self.model, self.encoder)
        self._answering = Answering(self.model, self.encoder, self.inputs)
        self._halving = Halving()
        self._workers = (threads or cores()) if on_cpu else 1
        self._pool = ThreadPoolExecutor(self._workers, initializer=_alone if on_cpu else None)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is not as it might be: weights or a processor in part, what cannot be shared, less
        memory.
        """
        return (
            *self._unused,
            *self.encoder.notes,
            *self._answering.sharing.notes,
            *self._halving.notes,
        )

    def generate(
        self, prompts: Sequence[Encoded], max_new_tokens: int, stop: Sequence[str] = ()
    ) -> Pending[tuple[str, int]]:
        """Greedy answers and how many tokens each took; the same for any batch size.

        An answer ends before the first of the texts in `stop`. Their result raises `EngineError`
        where the logits are not numbers, or memory does not suffice for a row.
        """
        return Pending(
            self._submit(
                lambda rows: self._answering.generate(rows, max_new_tokens, stop),
                prompts,
                max_new_tokens,
            )
        )

    def option_log_likelihoods(self, prompts: Sequence[Encoded]) -> Pending[list[float]]:
        """The log-likelihood of every option of every prompt, summed over its tokens.

        Their result raises `EngineError` where the logits are not numbers, or memory does not
        suffice for an option.
        """
        rows = [replace(p, options=(option,)) for p in prompts for option in p.options]

        def regrouped(scores: list[float]) -> list[list[float]]:
            ordered = iter(scores)
            return [[next(ordered) for _ in prompt.options] for prompt in prompts]

        return Pending(self._submit(self._answering.log_likelihoods, rows, 0), regrouped)

    def perplexities(self, prompts: Sequence[Encoded]) -> Pending[tuple[float, int, int]]:
        """The log-likelihood of every prompt's continuation, its tokens and its bytes.

        Their result raises as that of options does.
        """

        def counted(scores: list[float]) -> list[tuple[float, int, int]]:
            return [
                (score, len(prompt.options[0]), prompt.continuation_bytes)
                for score, prompt in zip(scores, prompts, strict=True)
            ]

        return Pending(self._submit(self._answering.log_likelihoods, prompts, 0), counted)

    def answered(self, prompt: Encoded) -> dict[str, Any]:
        """Inputs of one forward pass over a prompt and its one option, pictures as pixels."""
        sharing = self._answering.sharing
        whole = sharing.continued(prompt, prompt.options[0], sharing.of([prompt]).fill)
        return self.inputs.collate([replace(whole, options=())], "right", features=False)

    def _submit(
        self,
        answer: Callable[[Sequence[Encoded]], list[T]],
        rows: Sequence[Encoded],
        room: int,
    ) -> list[Future[dict[int, T]]]:
        def numbered(batch: Sequence[int]) -> dict[int, T]:
            answers = self._halving.answer(answer, [rows[i] for i in batch])
            return dict(zip(batch, answers, strict=True))

        try:
            # What rows share decides which of them go together.
            for pictured in {bool(row.pictures) for row in rows}:
                self._answering.sharing.of([r for r in rows if bool(r.pictures) == pictured])
        except EngineError as error:
            failed: Future[dict[int, T]] = Future()
            failed.set_exception(error)
            return [failed]
        cost = self._cost(room)
        limit = BATCH
        if sum(map(cost, rows)) > self._workers * SMALL:
            limit = min(BATCH, -(-len(rows) // self._workers))
        ordered = batches(rows, self.inputs.kind, cost, self._budget(), limit)
        return [self._pool.submit(numbered, batch) for batch in ordered]

    def _cost(self, room: int) -> Callable[[Encoded], int]:
        """Bytes of a row's keys and values, at most, and of the logits of its option."""
        text = self.model.config.get_text_config()
        size = self.model.dtype.itemsize
        token = 2 * text.num_hidden_layers * text.hidden_size * size

        def cost(row: Encoded) -> int:
            behind = len(row.options[0]) if row.options and not room else 0
            cached = (len(row.ids) + room + behind) * token
            return int(cached + behind * text.vocab_size * size)

        return cost

    def _budget(self) -> int:
        import torch

        if self.model.device.type != "cuda":
            return BUDGET
        free, _ = torch.cuda.mem_get_info(self.model.device)
        return int(SHARE * free)


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _alone() -> None:
    """Have torch compute on the calling thread alone."""
    import torch

    torch.set_num_threads(1)
