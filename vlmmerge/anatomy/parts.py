"""Names of backbone tensors relative to the decoder, under which models of any wrapping meet."""

import re
from collections import Counter
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from vlmmerge.anatomy.language import Language, join, under
from vlmmerge.errors import AlignmentError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

# By chance there may be as many of these as tokens.
_NO_TOKENS = re.compile(r"pos|wpe|type|segment")


def ties_of(state: Mapping[str, "torch.Tensor"]) -> dict[str, str]:
    """Further names of one and the same tensor of a state dict -> its first name."""
    first: dict[int, str] = {}
    names = {name: first.setdefault(id(tensor), name) for name, tensor in state.items()}
    return {name: kept for name, kept in names.items() if name != kept}


def name_parts(
    model: "PreTrainedModel", language: Language, aliases: Mapping[str, Collection[str]]
) -> dict[str, str]:
    """Live name -> part, for the tensors that are language.

    `aliases` are all the names of each tensor: one that is embedding and head is an embedding, one
    that is a head's bias and something else is of the head.
    Raises `AlignmentError` where two tensors would have one name.
    """
    roots = [(language.embeddings, "embed")]
    roots += [(language.head, "head")] if language.head is not None else []
    roots += [(language.core, ""), (language.scope, "")]
    moved = _renumbered(model, language)
    parts: dict[str, str] = {}
    for name, known_as in aliases.items():
        if any(language.reason(alias) for alias in known_as):
            continue
        found = [
            (rank, join(part, alias.removeprefix(f"{root}.") if root else alias))
            for rank, (root, part) in enumerate(roots)
            for alias in known_as
            if under(alias, root)
        ]
        if found:
            parts[name] = _moved(min(found)[1], moved)
    if twice := [part for part, n in Counter(parts.values()).items() if n > 1]:
        raise AlignmentError(
            f"{type(model).__name__}: two tensors of its language model are both {twice[0]}"
        )
    return parts


def rows_by_token(
    model: "PreTrainedModel", language: Language, parts: Mapping[str, str]
) -> frozenset[str]:
    """The parts that have one row for every token of a vocabulary.

    These are the input embedding, the head with its bias, and the embeddings for each layer that
    some decoders have beside it. `parts` maps every live name, ties too, to its part.
    """
    import torch

    core: Any = model.get_submodule(language.core)
    embeddings: Any = model.get_submodule(language.embeddings)
    config = core.config.to_dict()
    lengths = {size for key, size in config.items() if key.startswith("vocab_size")}
    lengths.add(embeddings.weight.shape[0])
    found = {join(language.embeddings, "weight")}
    for name, module in core.named_modules():
        if not isinstance(module, torch.nn.Embedding) or _NO_TOKENS.search(name):
            continue
        if module.num_embeddings in lengths:
            found.add(join(language.core, join(name, "weight")))
    if language.head is not None:
        head = model.get_submodule(language.head)
        found |= {join(language.head, name) for name, _ in head.named_parameters(recurse=False)}
    return frozenset(parts[name] for name in found if name in parts)


def _renumbered(model: "PreTrainedModel", language: Language) -> dict[str, str]:
    """Layers that held ones precede, and their numbers without those: `layers.4` -> `layers.3`.

    So the j-th layer that is merged meets a donor's j-th.
    """
    import torch

    core = model.get_submodule(language.core)
    moved: dict[str, str] = {}
    for name, module in core.named_modules():
        if not isinstance(module, torch.nn.ModuleList):
            continue
        layers = [join(name, str(i)) for i in range(len(module))]
        kept = [layer for layer in layers if not language.reason(join(language.core, layer))]
        moved |= {old: new for old, new in zip(kept, layers, strict=False) if old != new}
    return moved


def _moved(part: str, moved: Mapping[str, str]) -> str:
    # ERNIE's text experts lie beside its vision experts; without those they are the plain model's.
    part = part.replace(".text_moe.", ".")
    return next((part.replace(a, b, 1) for a, b in moved.items() if under(part, a)), part)
