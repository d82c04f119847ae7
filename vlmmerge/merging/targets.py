"""Which of a recipient's tensors an adapter of peft can hold, and how."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlmmerge.anatomy import Alignment, Meeting
from vlmmerge.anatomy.anatomy import build_meta, load_config
from vlmmerge.errors import ConfigError
from vlmmerge.recipes import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Targets:
    """The recipient's modules by what an adapter can hold of them, and the backbone's live names.

    `low`: weight of a linear module -> module; `biases`: the same of biases; `whole`: any tensor of
    a module to save -> module. `across`: weights are stored [in, out] (GPT-2's Conv1D). `states`:
    module to save -> its tensors, and the modules tied to it with theirs.
    """

    low: Mapping[str, str]
    biases: Mapping[str, str]
    whole: Mapping[str, str]
    across: frozenset[str]
    states: Mapping[str, tuple[str, ...]]


def check_extractable(recipe: Recipe, alignment: Alignment, rank: int) -> Targets:
    """How each backbone tensor would go into an adapter of the recipient.

    Raises `ConfigError` that names what cannot.
    """
    if type(rank) is not int or rank < 1:
        raise ConfigError(f"adapter: {rank!r} is no rank; give a whole number from 1 up")
    if recipe.vocabulary == "union":
        raise ConfigError(
            "adapter: vocabulary: union makes embeddings longer than the recipient's, which no"
            " adapter can; leave one of them out"
        )
    model = build_meta(load_config(alignment.models.recipient))
    found: dict[str, dict[str, str]] = {"low": {}, "biases": {}, "whole": {}}
    for meeting in alignment.meetings:
        module, _, leaf = meeting.live.rpartition(".")
        found[_kind(model, meeting, module, leaf)][meeting.live] = module
    _check_names(model, found["whole"].values())
    return Targets(
        **found,
        across=frozenset(n for n in found["low"] if _is_conv1d(model, found["low"][n])),
        states={m: tuple(_state_of(model, alignment, m)) for m in set(found["whole"].values())},
    )


def _kind(model: "PreTrainedModel", meeting: Meeting, name: str, leaf: str) -> str:
    """Whether a live tensor goes by low rank, as a bias beside one, or whole with its module."""
    import torch

    module = model.get_submodule(name)
    linear = type(module) is torch.nn.Linear or _is_conv1d(model, name)
    if linear and not meeting.part.startswith("head."):
        return "low" if leaf == "weight" else "biases"
    tensor = module.get_parameter(leaf) if leaf in dict(module.named_parameters()) else None
    fused = tensor is not None and tensor.dim() > 2 and not isinstance(module, torch.nn.Conv1d)
    if not name or tensor is None or fused or list(module.children()):
        raise ConfigError(
            f"adapter: {meeting.live} of {type(module).__name__} is neither of a linear module nor"
            " of one that peft saves whole; leave adapter out"
        )
    return "whole"


def _is_conv1d(model: "PreTrainedModel", name: str) -> bool:
    return type(model.get_submodule(name)).__name__ == "Conv1D"


def _check_names(model: "PreTrainedModel", wanted: Iterable[str]) -> None:
    """Refuse modules to save whose names end others': peft would take these for them."""
    names, wanted = [name for name, _ in model.named_modules()], set(wanted)
    for name in sorted(wanted):
        if twin := next((n for n in names if n.endswith(name) and n not in wanted), None):
            raise ConfigError(
                f"adapter: peft would take {twin} for {name}, which is saved whole; leave adapter"
                " out"
            )


def _state_of(model: "PreTrainedModel", alignment: Alignment, module: str) -> Iterator[str]:
    """Names of all tensors of a module to save, which peft wants, and of those tied to them."""
    for leaf in model.get_submodule(module).state_dict():
        live = f"{module}.{leaf}"
        yield live
        yield from (alias for alias, name in alignment.anatomy.ties.items() if name == live)
