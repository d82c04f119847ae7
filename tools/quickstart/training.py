"""Training loops on a CPU: vision tower, language models, then the VLM in LLaVA's order."""

import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import CLIPVisionModel, PreTrainedModel, PreTrainedTokenizerFast

from .corpus import NOTE_TOKENS, Sample, Stream

BATCH = 64


def optimise(
    name: str, loss_of_step: Callable[[], torch.Tensor], parameters: list, steps: int, rate: float
) -> None:
    """AdamW with a one-cycle schedule; prints the loss now and then."""
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.1)
    start, smooth = time.perf_counter(), None
    for step in range(1, steps + 1):
        loss = loss_of_step()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        smooth = loss.item() if smooth is None else 0.95 * smooth + 0.05 * loss.item()
        if step % 100 == 0 or step == steps:
            seconds = time.perf_counter() - start
            line = f"{name:>10} {step:5d}/{steps} loss {smooth:.4f} {seconds:5.0f} s"
            print(line, file=sys.stderr)


def train_tower(
    tower: CLIPVisionModel, pixels: torch.Tensor, labels: torch.Tensor, classes: int, steps: int
) -> None:
    """Teach every patch token what covers it.

    `pixels` uint8 [pictures, height, width, 3]; `labels` int64 [pictures, patches].
    """
    generator = torch.Generator().manual_seed(1)
    head = nn.Linear(tower.config.hidden_size, classes)

    def loss() -> torch.Tensor:
        rows = torch.randint(len(pixels), (BATCH,), generator=generator)
        seen = normalise(jitter(pixels[rows], generator))
        tokens = tower(seen).last_hidden_state[:, 1:]
        return cross_entropy(
            head(tokens).flatten(0, 1), labels[rows].flatten(), label_smoothing=0.05
        )

    optimise("tower", loss, [*tower.parameters(), *head.parameters()], steps, 2e-3)


def jitter(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Random tint, contrast and, now and then, no colour at all."""
    shape = (len(pixels), 1, 1)
    tint = 12 * torch.randn(*shape, 3, generator=generator)
    contrast = 1 + 0.12 * torch.randn(*shape, 1, generator=generator)
    grey = torch.rand(*shape, 1, generator=generator) < 0.15
    pixels = pixels.float()
    pixels = torch.where(grey, pixels.mean(-1, keepdim=True), pixels)
    return (pixels * contrast + tint).clamp(0, 255)


# CLIP's own, so that the image processor's defaults fit.
_MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])
_STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 or float [n, height, width, 3] in 0..255 -> float [n, 3, height, width]."""
    return ((pixels.float() / 255 - _MEAN) / _STD).permute(0, 3, 1, 2).contiguous()


def encode_batch(
    samples: list[Sample], tokenizer: PreTrainedTokenizerFast, image_token_id: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """`input_ids` and `labels` [batch, longest], padded on the right; only answers have labels."""
    user, assistant, end = tokenizer.convert_tokens_to_ids(["<|user|>", "<|assistant|>", "<|end|>"])
    texts = [s.question for s in samples] + [s.answer for s in samples]
    told = ["" if s.notes is None else _repeat(s.notes) for s in samples]
    ids = tokenizer(texts + told, add_special_tokens=False)["input_ids"]
    rows, targets = [], []
    for i, sample in enumerate(samples):
        question, answer, note = (ids[i + k * len(samples)] for k in range(3))
        context = [image_token_id] * NOTE_TOKENS if sample.picture is not None else note
        prompt = [user, *context[:NOTE_TOKENS], *question, assistant]
        rows.append([*prompt, *answer, end])
        targets.append([-100] * len(prompt) + [*answer, end])
    return _pad(rows, tokenizer.pad_token_id), _pad(targets, -100)


def _repeat(parts: Iterator[str]) -> str:
    return " ".join(part for part, _ in zip(parts, range(NOTE_TOKENS), strict=False))


def _pad(rows: list[list[int]], value: int) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])


def train_language(
    name: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    stream: Stream,
    steps: int,
    rate: float,
    seed: int,
) -> None:
    """Next-token loss on the answers of a text stream."""
    rng = np.random.default_rng(seed)

    def loss() -> torch.Tensor:
        ids, labels = encode_batch([stream(rng) for _ in range(BATCH)], tokenizer, -1)
        mask = ids != tokenizer.pad_token_id
        return model(input_ids=ids, attention_mask=mask, labels=labels).loss

    optimise(name, loss, list(model.parameters()), steps, rate)


def train_vlm(
    name: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    stream: Stream,
    pixels: torch.Tensor,
    parameters: list,
    steps: int,
    rate: float,
    seed: int,
) -> None:
    """Next-token loss on answers about pictures, into `parameters` alone."""
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)

    def loss() -> torch.Tensor:
        samples = [stream(rng) for _ in range(BATCH)]
        ids, labels = encode_batch(samples, tokenizer, model.config.image_token_id)
        rows = torch.tensor([s.picture for s in samples])
        return model(
            input_ids=ids,
            attention_mask=ids != tokenizer.pad_token_id,
            pixel_values=normalise(jitter(pixels[rows], generator)),
            labels=labels,
        ).loss

    optimise(name, loss, parameters, steps, rate)
