"""Keys and values of rows under way: read once, handed to several rows, extended by more tokens."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Held:
    """Rows that a model has read.

    `mask` [rows, width] says which cached columns are tokens, `after` [directions, rows] the
    position of each row's next token (rope has one direction, or several with pictures), `logits`
    [rows, kept, vocabulary] what the last columns predict.
    """

    cache: Any
    mask: "torch.Tensor"
    after: "torch.Tensor"
    logits: "torch.Tensor"


class Reader:
    """Has one model read tokens, and more tokens behind them. Safe to use from several threads.

    Positions are always told: models that remember them between calls (M-RoPE) would mix up the
    rows of several threads.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        taken = inspect.signature(model.forward).parameters
        self.reads = {"past_key_values", "position_ids", "logits_to_keep"} <= taken.keys()
        self._positioning = Lock()

    def begin(self, inputs: dict[str, Any], sizes: dict[str, Any], room: int) -> Held:
        """Read rows padded on the left, with room for so many tokens behind them.

        `sizes` are what a model computes the positions of picture tokens from.
        """
        import torch

        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        known = {name: value for name, value in inputs.items() if name != "input_ids"}
        with self._positioning:
            # transformers has no public name for a model's own positions.
            positions = self._model._prepare_position_ids_for_generation(ids, {**known, **sizes})
        tops = positions.expand(*positions.shape[:-2], len(ids), -1).amax(-1)
        if tops.dim() == 1:
            after = tops[None] + 1
        else:
            # M-RoPE: the first of four directions counts tokens, three go on from their highest.
            turned = tops[-3:].amax(0, keepdim=True).expand(3, -1)
            after = torch.cat([tops[:-3], turned]) + 1
        return self._read(inputs, positions, _cache(room), mask, after, keep=1)

    def extend(
        self,
        held: Held,
        rows: Sequence[int] | None,
        tokens: Sequence[Sequence[int]],
        keep: int = 1,
        side: Literal["left", "right"] = "left",
        room: int = 0,
    ) -> Held:
        """Read tokens, the i-th behind row `rows[i]`, padded on `side`; `keep` columns of logits.

        With `rows` None every row goes on itself, and `held` is used up.
        """
        import torch

        width = max(len(row) for row in tokens)
        device = held.mask.device

        def padded(row: Sequence[int], fill: int, value: Sequence[int]) -> list[int]:
            blank = [fill] * (width - len(row))
            return [*blank, *value] if side == "left" else [*value, *blank]

        ids = torch.tensor([padded(row, 0, row) for row in tokens], device=device)
        real = torch.tensor([padded(row, 0, [1] * len(row)) for row in tokens], device=device)
        mask, after, cache = held.mask, held.after, held.cache
        if rows is not None:
            chosen = torch.tensor(rows, device=device)
            mask, after = mask[chosen], after[:, chosen]
            cache = _cache(room, of=cache, rows=chosen, width=width)
        mask = torch.cat([mask, real.to(mask.dtype)], 1)
        positions = after[..., None] + (real.cumsum(1) - 1).clamp(min=0)
        inputs = {"input_ids": ids, "attention_mask": mask}
        told = positions[0] if len(positions) == 1 else positions
        return self._read(inputs, told, cache, mask, after + real.sum(1), keep)

    def select(self, held: Held, rows: Sequence[int], room: int) -> Held:
        """Some of the rows, with room for so many tokens more."""
        import torch

        chosen = torch.tensor(rows, device=held.mask.device)
        cache = _cache(room, of=held.cache, rows=chosen)
        return Held(cache, held.mask[chosen], held.after[:, chosen], held.logits[chosen])

    def _read(
        self,
        inputs: dict[str, Any],
        positions: "torch.Tensor",
        cache: Any,
        mask: "torch.Tensor",
        after: "torch.Tensor",
        keep: int,
    ) -> Held:
        logits = self._model(
            **inputs,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=keep,
        ).logits
        return Held(cache, mask, after, logits)


def _cache(room: int, of: Any = None, rows: "torch.Tensor | None" = None, width: int = 0) -> Any:
    """A key-value cache with room for tokens to come; of another one's rows."""
    from transformers import Cache

    layer = _layer()
    made = Cache(layer_class_to_replicate=partial(layer, room))  # type: ignore[arg-type]
    if of is not None:
        made.layers = [layer(room).take(held, rows, width) for held in of.layers]
    return made


@lru_cache(maxsize=1)
def _layer() -> Any:
    import torch
    from transformers import cache_utils

    dynamic: Any = cache_utils.DynamicLayer

    class Layer(dynamic):  # type: ignore[misc]
        """Grows in place while there is room: transformers' own copies all at every token."""

        def __init__(self, room: int) -> None:
            super().__init__()
            self._room = room
            self._held: list[torch.Tensor] = []

        def take(self, other: "Layer", rows: "torch.Tensor", width: int) -> "Layer":
            """Become a copy of some rows of another layer, `width` columns wider and with room."""
            if not other.is_initialized:
                return self
            self.lazy_initialization(other.keys, other.values)
            old = other.keys.shape[-2]
            for held in (other.keys, other.values):
                self._held.append(self._wider(held, len(rows), old + width + self._room))
                self._held[-1][..., :old, :] = held[rows]
            self._show(old)
            return self

        def update(self, keys: Any, values: Any, *_: Any, **__: Any) -> Any:
            if not self.is_initialized:
                self.lazy_initialization(keys, values)
            old = self.get_seq_length()
            new = old + keys.shape[-2]
            if not self._held or new > self._held[0].shape[-2]:
                before = self._held
                wide = new + self._room
                self._held = [self._wider(part, len(part), wide) for part in (keys, values)]
                for grown, had in zip(self._held, before, strict=False):
                    grown[..., :old, :] = had[..., :old, :]
            for held, part in zip(self._held, (keys, values), strict=True):
                held[..., old:new, :] = part
            self._show(new)
            return self.keys, self.values

        def _wider(self, like: Any, rows: int, columns: int) -> Any:
            return like.new_empty(rows, like.shape[1], columns, like.shape[3])

        def _show(self, columns: int) -> None:
            self.keys, self.values = (held[..., :columns, :] for held in self._held)

    return Layer
