"""Cells: the smallest groups of backbone tensors that a recipe can name.

A cell is `embed`, `head`, `norm` (what follows the last layer), or a layer's `attn`, `mlp` or
`norm`.
"""

import re
from dataclasses import dataclass

MODULES = ("attn", "mlp", "norm")

_LAYER = re.compile(r"(?:[a-z_]+\.)*?(?:layers|h|blocks|block)\.(\d+)\.([a-zA-Z0-9_]+)")
_MLP = re.compile(r"mlp|ffn|feed_forward|experts|moe|fc\d|dense_h")


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


def cell_of(part: str) -> Cell:
    """The cell of a backbone part, by its name relative to the decoder.

    A norm inside the attention (`self_attn.q_norm`) is of the attention.
    """
    if part == "embed.weight":
        return EMBED
    if part.startswith("head."):
        return HEAD
    if (match := _LAYER.match(part)) is None:
        return EMBED if "embed" in part else NORM
    module = match[2].lower()
    if "norm" in module or module.startswith("ln_"):
        kind = "norm"
    else:
        kind = "mlp" if _MLP.search(module) else "attn"
    return Cell(int(match[1]), kind)
