"""Encoded examples as a model's inputs: padded, and with image features that are computed once."""

import inspect
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

from vlmmerge.scoring.encoding import Encoded, Encoder, PictureKey

if TYPE_CHECKING:
    import torch

BATCH = 128  # pictures of one pass through the vision tower, at most


class Inputs:
    """Collates rows for one model. Safe to use from several threads."""

    def __init__(self, model: Any, encoder: Encoder) -> None:
        self._model = model
        self._encoder = encoder
        self._features: dict[PictureKey, torch.Tensor] = {}
        self.shares_features: bool | None = None  # None: not tried yet
        self._computing = Lock()

    def collate(self, rows: Sequence[Encoded], side: Literal["left", "right"]) -> dict[str, Any]:
        """Inputs of one forward pass, padded on `side`; image features where the model takes them.

        All rows have pictures, or none.
        """
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
        for name in rows[0].extras:
            inputs[name] = matrix([padded(row.extras[name], 0) for row in rows])
        keys = [row.pictures for row in rows if row.pictures]
        if keys and self._prepare(keys):
            inputs["mm_encoder_outputs"] = self._encoder_outputs(keys)
        elif keys:
            inputs |= self._pixels(keys)
        return inputs

    def _prepare(self, keys: Sequence[PictureKey]) -> bool:
        """Compute features of pictures that have none yet; whether the model takes features."""
        with self._computing:
            if self.shares_features is None:
                self.shares_features = self._try_sharing(keys[0])
            if self.shares_features:
                self._compute(keys)
            return self.shares_features

    def _try_sharing(self, key: PictureKey) -> bool:
        """Whether image features may be computed once: tried, not looked up.

        The model takes precomputed features and gives, for one picture, the logits it gives for the
        pixels themselves.
        """
        import torch

        takes = "mm_encoder_outputs" in inspect.signature(self._model.forward).parameters
        if not takes or len(key) != 1:
            return False
        self._compute([key])
        image = self._model.config.image_token_id
        ids = torch.full((1, len(self._features[key])), image, device=self._model.device)
        with torch.inference_mode():
            plain = self._model(input_ids=ids, **self._pixels([key])).logits
            outputs = self._encoder_outputs([key])
            shared = self._model(input_ids=ids, mm_encoder_outputs=outputs).logits
        return torch.allclose(plain, shared, rtol=1e-4, atol=1e-5)

    def _compute(self, keys: Sequence[PictureKey]) -> None:
        import torch

        new = list(dict.fromkeys(key for key in keys if key not in self._features))
        for start in range(0, len(new), BATCH):
            batch = new[start : start + BATCH]
            with torch.inference_mode():
                encoded = self._model.get_image_features(**self._pixels(batch))
            self._features.update(zip(batch, encoded.pooler_output, strict=True))

    def _pixels(self, keys: Sequence[PictureKey]) -> dict[str, "torch.Tensor"]:
        import torch

        pixels = [self._encoder.pixels[key] for key in keys]
        return {n: torch.cat([p[n] for p in pixels]).to(self._model.device) for n in pixels[0]}

    def _encoder_outputs(self, keys: Sequence[PictureKey]) -> Mapping[str, Any]:
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        features: Any = [self._features[key] for key in keys]
        return {"image": BaseModelOutputWithPooling(pooler_output=features)}
