"""Merges written out by hand over what transformers loads."""

import re
from collections.abc import Callable, Mapping

import torch

from families.family import Family
from families.folders import Saved

Tensors = Mapping[str, torch.Tensor]
Rule = Callable[[str, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
RECIPIENT = 0.9  # its weight; the donor's are by group


def weights(tied: bool) -> dict[str, float]:
    """The donor's weight by group; a tied head has its embedding's."""
    head = {} if tied else {"head": 0.3}
    layers = {"layers.0.attn": 1.1, "layers.1.mlp": 0.8}
    return {"all": 0.6, "embed": 0.45, "norm": 0.7, **layers, **head}


def weight_of(name: str, tied: bool) -> float:
    """The same, by the plain LLM's name of a tensor."""
    if "embed_" in name or (tied and "lm_head" in name):
        return 0.45
    if "lm_head" in name:
        return 0.3
    if "layers." not in name:
        return 0.7
    if re.search(r"layers\.0\.(self_attn|conv)\.", name):
        return 1.1
    if re.search(r"layers\.1\.(mlp|feed_forward|fc\d)\b", name):
        return 0.8
    return 0.6


def task_arithmetic(tied: bool = False) -> Rule:
    """base + w_r (recipient - base) + w_d (donor - base)."""

    def rule(
        name: str, mine: torch.Tensor, root: torch.Tensor, theirs: torch.Tensor
    ) -> torch.Tensor:
        return root + (RECIPIENT * (mine - root) + weight_of(name, tied) * (theirs - root))

    return rule


def ties(tied: bool = False) -> Rule:
    """TIES with densities 0.7 and 0.5: trim, elect signs, mean of those that agree."""

    def trimmed(delta: torch.Tensor, density: float) -> torch.Tensor:
        order = delta.abs().flatten().sort(descending=True, stable=True).indices
        kept = torch.zeros(delta.numel())
        kept[order[: max(1, int(density * delta.numel()))]] = 1
        return delta * kept.reshape(delta.shape)

    def rule(
        name: str, mine: torch.Tensor, root: torch.Tensor, theirs: torch.Tensor
    ) -> torch.Tensor:
        deltas = torch.stack([trimmed(mine - root, 0.7), trimmed(theirs - root, 0.5)])
        by = torch.tensor([RECIPIENT, weight_of(name, tied)]).reshape(2, *[1] * mine.dim())
        elected = torch.where((by * deltas).sum(0) >= 0, 1.0, -1.0)
        agree = (deltas * elected > 0).float()
        return root + (agree * by * deltas).sum(0) / (agree * by).sum(0).clamp(min=1e-9)

    return rule


def reference(
    recipient: Saved,
    base: Tensors,
    donor: Tensors,
    rule: Rule,
    partner: Callable[[str], str | None] = lambda live: live,
) -> dict[str, torch.Tensor]:
    """The merge over live tensors, rounded as they are stored; rows without a partner stay.

    `partner` gives the sources' name of the recipient's live one, None where it is frozen.
    """
    model = recipient.load()
    buffers = dict(model.named_buffers())
    expected = {}
    for live, mine in model.state_dict().items():
        if (name := partner(live)) is None:
            expected[live] = mine
            continue
        rows = len(base[name])
        merged = rule(name, mine[:rows], base[name], donor[name])
        stored = merged if live in buffers else merged.to(recipient.dtype).float()
        expected[live] = torch.cat([stored, mine[rows:]])
    return expected


def transplant(family: Family, vlm: Tensors) -> dict[str, torch.Tensor]:
    """The backbone of a VLM's live tensors, under the names of its plain LLM."""
    return {p: t for live, t in vlm.items() if (p := family.partner(live)) is not None}
