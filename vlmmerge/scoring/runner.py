"""Runner: a model in memory that answers encoded examples, in batches, image features shared."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vlmmerge.anatomy import Anatomy
from vlmmerge.anatomy.anatomy import load_config, model_class
from vlmmerge.checkpoints import Checkpoint
from vlmmerge.errors import ConfigError, EngineError
from vlmmerge.scoring.encoding import Encoded, Encoder, PictureKey

if TYPE_CHECKING:
    import torch

BATCH = 256  # rows of one forward pass, at most


def check_device(device: str, where: str) -> None:
    """Refuse a device that torch does not know, or that this machine does not have."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise ConfigError(f"{where}: {device!r} cannot be used ({reason})") from error


class Runner:
    """A model with its encoder.

    On a CPU weights are held and computed with in float32 (bfloat16 is slower there, and changes
    with the batch size), on another device in the dtype that they are stored in.
    """

    def __init__(self, checkpoint: Checkpoint, device: str = "cpu") -> None:
        import torch

        config = load_config(checkpoint)
        dtype = torch.float32 if device == "cpu" else "auto"
        with _no_bars():
            model = model_class(config).from_pretrained(checkpoint.path, dtype=dtype)
        # transformers' types know neither generate nor image features.
        self.model: Any = model.to(device).eval()
        self.anatomy = Anatomy.of(config)
        self.encoder = Encoder(checkpoint.path, has_vision=bool(self.anatomy.frozen))
        self._features: dict[PictureKey, list[torch.Tensor]] = {}
        self._shares_features: bool | None = None
        self.generated_tokens = 0

    def generate(self, prompts: Sequence[Encoded], max_new_tokens: int) -> list[str]:
        """Greedy answers, in the order of `prompts`; the same for any batch size.

        Raises `EngineError` where the logits are not numbers.
        """
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
        answers: dict[int, str] = {}
        for batch in batches(prompts):
            inputs = self._collate([prompts[i] for i in batch], side="left")
            width = inputs["input_ids"].shape[1]
            with torch.inference_mode():
                produced = self.model.generate(
                    **inputs,
                    generation_config=config,
                    logits_processor=LogitsProcessorList([_refuse_nan]),
                )[:, width:]
            self.generated_tokens += int((produced != config.pad_token_id).sum())
            answers.update(zip(batch, self.encoder.decode(produced.tolist()), strict=True))
        return [answers[i] for i in range(len(prompts))]

    def option_log_likelihoods(self, prompts: Sequence[Encoded]) -> list[list[float]]:
        """The log-likelihood of every option of every prompt, summed over its tokens."""
        import torch

        flat = [(i, option) for i, prompt in enumerate(prompts) for option in prompt.options]
        joined = [
            Encoded((*prompts[i].ids, *option), _extended(prompts[i], option), prompts[i].pictures)
            for i, option in flat
        ]
        scores: dict[int, float] = {}
        for batch in batches(joined):
            inputs = self._collate([joined[j] for j in batch], side="right")
            with torch.inference_mode():
                logits = self.model(**inputs, use_cache=False).logits
            for row, j in enumerate(batch):
                i, option = flat[j]
                start = len(prompts[i].ids)
                predicted = logits[row, start - 1 : start - 1 + len(option)].float()
                if bool(predicted.isnan().any()):
                    raise EngineError("the model's logits are not numbers (NaN)")
                target = torch.tensor(option, device=predicted.device)[:, None]
                scores[j] = float(predicted.log_softmax(-1).gather(1, target).sum())
        ordered = iter(scores[j] for j in range(len(flat)))
        return [[next(ordered) for _ in prompt.options] for prompt in prompts]

    def _collate(self, rows: Sequence[Encoded], side: str) -> dict[str, Any]:
        """Padded inputs of one forward pass, image features shared where the model takes them."""
        import torch

        width = max(len(row.ids) for row in rows)
        pad = self.encoder.tokenizer.pad_token_id or 0

        def padded(values: Sequence[int], fill: int) -> list[int]:
            blank = [fill] * (width - len(values))
            return [*blank, *values] if side == "left" else [*values, *blank]

        device = self.model.device
        inputs: dict[str, Any] = {
            "input_ids": torch.tensor([padded(r.ids, pad) for r in rows], device=device),
            "attention_mask": torch.tensor(
                [padded([1] * len(r.ids), 0) for r in rows], device=device
            ),
        }
        for name in rows[0].extras:
            inputs[name] = torch.tensor([padded(r.extras[name], 0) for r in rows], device=device)
        keys = [row.pictures for row in rows if row.pictures]
        if keys and self._can_share(keys[0]):
            self._compute_features(keys)
            inputs["mm_encoder_outputs"] = self._encoder_outputs(keys)
        elif keys:
            inputs |= self._pixel_inputs(keys)
        return inputs

    def _pixel_inputs(self, keys: Sequence[PictureKey]) -> dict[str, "torch.Tensor"]:
        import torch

        pixels = [self.encoder.pixels[key] for key in keys]
        return {n: torch.cat([p[n] for p in pixels]).to(self.model.device) for n in pixels[0]}

    def _encoder_outputs(self, keys: Sequence[PictureKey]) -> Mapping[str, Any]:
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        features: Any = [feature for key in keys for feature in self._features[key]]
        return {"image": BaseModelOutputWithPooling(pooler_output=features)}

    def _can_share(self, key: PictureKey) -> bool:
        """Whether image features may be computed once: tried, not looked up.

        The model takes precomputed features and gives, for one picture, the logits it gives for the
        pixels themselves.
        """
        import inspect

        import torch

        if self._shares_features is None:
            takes = "mm_encoder_outputs" in inspect.signature(self.model.forward).parameters
            self._shares_features = takes and len(key) == 1
            if self._shares_features:
                self._compute_features([key])
                image = self.model.config.image_token_id
                ids = torch.full((1, len(self._features[key][0])), image, device=self.model.device)
                with torch.inference_mode():
                    plain = self.model(input_ids=ids, **self._pixel_inputs([key])).logits
                    shared = self.model(
                        input_ids=ids, mm_encoder_outputs=self._encoder_outputs([key])
                    ).logits
                self._shares_features = torch.allclose(plain, shared, rtol=1e-4, atol=1e-5)
        return self._shares_features

    def _compute_features(self, keys: Sequence[PictureKey]) -> None:
        """Projected image features of every picture that has none yet."""
        import torch

        new = list(dict.fromkeys(key for key in keys if key not in self._features))
        for start in range(0, len(new), BATCH):
            batch = new[start : start + BATCH]
            with torch.inference_mode():
                encoded = self.model.get_image_features(**self._pixel_inputs(batch))
            for key, feature in zip(batch, encoded.pooler_output, strict=True):
                self._features[key] = [feature]


def batches(rows: Sequence[Encoded]) -> Iterator[list[int]]:
    """Indices of rows in batches of like kind and length: text apart from pictures."""
    order = sorted(range(len(rows)), key=lambda i: (bool(rows[i].pictures), len(rows[i].ids), i))
    batch: list[int] = []
    for i in order:
        if batch and (
            len(batch) == BATCH or bool(rows[batch[0]].pictures) != bool(rows[i].pictures)
        ):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


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


def _extended(prompt: Encoded, option: Sequence[int]) -> dict[str, tuple[int, ...]]:
    return {name: (*values, *[0] * len(option)) for name, values in prompt.extras.items()}


def _refuse_nan(input_ids: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
    if bool(scores.isnan().any()):
        raise EngineError("the model's logits are not numbers (NaN)")
    return scores
