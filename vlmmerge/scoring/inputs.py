"""Encoded examples as a model's inputs: padded, with pictures as features or as pixels."""

import inspect
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from vlmmerge.scoring.encoding import Encoded, Encoder
from vlmmerge.scoring.features import Features, joined_pixels, shapes

if TYPE_CHECKING:
    import torch


class Inputs:
    """Collates rows for one model. Safe to use from several threads."""

    def __init__(self, model: Any, encoder: Encoder) -> None:
        self._model = model
        self._encoder = encoder
        self._taken = inspect.signature(model.forward).parameters.keys()
        self.features = Features(model, encoder.pixels)
        self.shares_features = False  # until a check says so

    def collate(
        self,
        rows: Sequence[Encoded],
        side: Literal["left", "right"] = "left",
        features: bool | None = None,
    ) -> dict[str, Any]:
        """Inputs of one forward pass, padded on `side`; `features`: other than as checked.

        All rows have pictures, or none.
        """
        return self.text(rows, side) | self.pictures(rows, features)

    def text(self, rows: Sequence[Encoded], side: Literal["left", "right"]) -> dict[str, Any]:
        """Token ids, mask, and what else there is a number a token of."""
        import torch

        width = max(len(row.ids) for row in rows)
        pad = self._encoder.tokenizer.pad_token_id or 0

        def padded(values: Sequence[int], fill: int) -> list[int]:
            blank = [fill] * (width - len(values))
            return [*blank, *values] if side == "left" else [*values, *blank]

        def matrix(values: list[list[int]]) -> "torch.Tensor":
            return torch.tensor(values, device=self._model.device)

        inputs: dict[str, Any] = {
            "input_ids": matrix([padded(row.ids, pad) for row in rows]),
            "attention_mask": matrix([padded([1] * len(row.ids), 0) for row in rows]),
        }
        for name in self.typed(rows[0]):
            inputs[name] = matrix([padded(row.extras[name], 0) for row in rows])
        for name, value in rows[0].others.items():
            if name in self._taken:
                assert len(rows) == 1
                inputs[name] = value.to(self._model.device)
        return inputs

    def pictures(self, rows: Sequence[Encoded], features: bool | None = None) -> dict[str, Any]:
        """Features of the rows' pictures, or their pixels."""
        keys = [row.pictures for row in rows if row.pictures]
        if not keys:
            return {}
        if self.shares_features if features is None else features:
            return {"mm_encoder_outputs": self.features.outputs(keys)}
        pixels = joined_pixels([self._encoder.pixels(key) for key in keys], self._model.device)
        return {name: value for name, value in pixels.items() if name in self._taken}

    def sizes(self, rows: Sequence[Encoded]) -> dict[str, Any]:
        """Tables of whole numbers, a row a picture: what positions are computed from (M-RoPE)."""
        import torch

        keys = [row.pictures for row in rows if row.pictures]
        found: dict[str, list[torch.Tensor]] = {}
        for key in keys:
            for name, value in self._encoder.pixels(key).items():
                if isinstance(value, torch.Tensor) and value.dim() == 2:
                    found.setdefault(name, []).append(value)
        return {
            name: torch.cat(values).to(self._model.device)
            for name, values in found.items()
            if name in self._taken and not values[0].is_floating_point()
        }

    def typed(self, row: Encoded) -> list[str]:
        """The row's extras that the model takes."""
        return [name for name in row.extras if name in self._taken and name != "labels"]

    def kind(self, row: Encoded) -> Hashable:
        """What rows of one batch have in common."""
        alone = id(row) if row.others else None
        shape = None
        if row.pictures and not self.shares_features:
            shape = shapes(self._encoder.pixels(row.pictures))
        return bool(row.pictures), alone, shape
