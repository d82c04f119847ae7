"""Cells: the smallest groups of backbone tensors that a recipe can name.

A cell is `embed`, `head`, `norm` (what follows the last layer), or a layer's `attn`, `mlp` or
`norm`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

MODULES = ("attn", "mlp", "norm")

_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)\.(.+)")
_NORM = re.compile(r"norm|^ln_|^layer_scalar$", re.IGNORECASE)
_ATTENTION = re.compile(r"att|^conv$|mamba|altup|laurel", re.IGNORECASE)
_MLP = re.compile(r"mlp|ffn|feed_?forward|expert|moe|router|^fc\d|dense_h|per_layer|^ple$")
_MLP_OF_BERT = ("intermediate", "output")
# Nemotron-H calls the one block of a layer its mixer, be it attention, Mamba or an MLP.
_MLP_OF_MIXER = re.compile(r"(?:up_proj|down_proj|gate|experts|shared_experts|.*latent_proj)$")

_EMBED = re.compile(r"emb|wte|wpe|per_layer|project_in")
_HEAD = re.compile(r"(?:(?:lm_)?head|cls|project_out)\.")
# LFM2 calls its last norm so.
_LAST_NORM = "embedding_norm."


@dataclass(frozen=True, order=True)
class Cell:
    """One cell; `layer` is None outside the layers, `module` is then embed, head or norm."""

    layer: int | None
    module: str

    def __str__(self) -> str:
        return self.module if self.layer is None else f"layers.{self.layer}.{self.module}"


EMBED = Cell(None, "embed")
HEAD = Cell(None, "head")
NORM = Cell(None, "norm")


def depth(cells: Iterable[Cell]) -> int:
    """How many layers there are."""
    return 1 + max((cell.layer for cell in cells if cell.layer is not None), default=-1)


def cell_of(part: str) -> Cell:
    """The cell of a backbone part, by its name relative to the decoder.

    A norm inside the attention (`self_attn.q_norm`) is of the attention, one inside the MLP of the
    MLP. What takes the place of attention (Mamba, a convolution) is `attn`.
    """
    if match := _LAYER.search(part):
        return Cell(int(match[1]), _module_of(match[2].split(".")))
    if _HEAD.match(part):
        return HEAD
    if part.startswith(_LAST_NORM) or "unembed" in part:
        return NORM
    return EMBED if _EMBED.search(part) else NORM


def _module_of(path: list[str]) -> str:
    """attn, mlp or norm, for the path within a layer: the first name in it that says so."""
    for i, name in enumerate(path):
        if _NORM.search(name):
            if i >= len(path) - 2:  # a norm, not a block named after the norms in it
                return "norm"
        elif name == "mixer":
            return "mlp" if _MLP_OF_MIXER.match(path[i + 1]) else "attn"
        elif _ATTENTION.search(name):
            return "attn"
        elif _MLP.search(name) or name in _MLP_OF_BERT:
            return "mlp"
    return "attn"
