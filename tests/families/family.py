"""A family: its VLM, the plain LLM of its backbone, and how the names of the two meet."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedConfig, PreTrainedModel

VOCAB, IMAGE, VIDEO, START, END = 71, 66, 67, 68, 69  # special ids are the last of the vocabulary
LAYERS, WIDTH, INNER, HEADS, PAIRS, HEAD_DIM = 2, 32, 44, 4, 2, 6
VISION, VISION_INNER, PIXELS, PATCH = 40, 52, 16, 4

TEXT = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": PAIRS,
    "max_position_embeddings": 96,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

Inputs = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Family:
    """One family of VLMs.

    `prefixes` maps prefixes of live names of the VLM to those of the plain LLM; `held` matches what
    of them is frozen, by live and by stored names. `hub` maps prefixes of the backbone's names as
    `save_pretrained` writes them to live ones; none where the two layouts have the same names.
    """

    name: str
    vlm: type[PreTrainedModel]
    config: Callable[[], PreTrainedConfig]
    plain: type[PreTrainedModel]
    plain_config: Callable[[], PreTrainedConfig]
    inputs: Callable[[torch.Generator], Inputs]
    hub: Mapping[str, str] = field(default_factory=dict)
    prefixes: Mapping[str, str] = field(
        default_factory=lambda: {"model.language_model.": "model.", "lm_head.": "lm_head."}
    )
    held: str = "$^"
    tied: bool = False

    def live(self, stored: str) -> str:
        """The live name of a backbone tensor by either of its stored names."""
        for hub, live in self.hub.items():
            if stored.startswith(hub):
                return live + stored.removeprefix(hub)
        return stored

    def partner(self, live: str) -> str | None:
        """The plain LLM's name of a live tensor of the VLM; None where it is frozen."""
        for mine, plain in self.prefixes.items():
            if live.startswith(mine) and not re.search(self.held, live):
                return plain + live.removeprefix(mine).replace(".text_moe.", ".")  # ERNIE's
        return None

    def merges(self, stored: str) -> bool:
        """Whether a stored tensor, in either layout, is of the backbone."""
        return not re.search(self.held, stored) and self.partner(self.live(stored)) is not None

    def build(self, seed: int = 0) -> PreTrainedModel:
        """The VLM with random weights, float32."""
        return made(self.vlm, self.config(), seed)

    def build_plain(self, vlm: PreTrainedModel, seed: int) -> PreTrainedModel:
        """The plain LLM with the VLM's backbone, moved by random steps."""
        model = made(self.plain, self.plain_config(), seed)
        state = model.state_dict()
        for live, tensor in vlm.state_dict().items():
            if (name := self.partner(live)) in state:
                state[name].copy_(tensor[: len(state[name])])
        return varied(model, seed, 0.05)

    def ask(self, seed: int = 0) -> Inputs:
        """A prompt with an image, as the model's forward pass takes it."""
        return self.inputs(torch.Generator().manual_seed(seed))


def made(kind: type[PreTrainedModel], config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    """A model with random weights, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return varied(kind._from_config(config), seed).eval()


def varied(model: PreTrainedModel, seed: int, size: float = 0.2) -> PreTrainedModel:
    """Every weight moved, norms and biases and gates and buffers too: none is trivial."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in {id(t): t for t in model.state_dict(keep_vars=True).values()}.values():
            if tensor.is_floating_point():
                tensor += torch.randn(tensor.shape, generator=generator) * size
    return model


def prompt(tokens: int, *, before: tuple[int, ...] = (), after: tuple[int, ...] = ()) -> Inputs:
    """Ids of words, an image of so many tokens, and words."""
    ids = torch.tensor([[1, 7, 9, *before, *[IMAGE] * tokens, *after, 11, 5, 23, 40]])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def image(generator: torch.Generator, *shape: int) -> torch.Tensor:
    """Random pixels, float32."""
    return torch.randn(shape, generator=generator)
