"""Where a live model keeps its language model, and what inside it reads other things than text."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlmmerge.errors import AlignmentError

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

_CROSS_ATTENTION = re.compile(r"cross_?att", re.IGNORECASE)
_MODALITY = re.compile(
    r"(?:^|_)(vision|visual|image|img|video|perceiver|protein|audio|speech)(?:_|$)"
)
# Idefics alone: rows for its image tokens, kept beside the embedding and the head, not in them.
_IMAGE_TOKENS = ("additional_embedding", "additional_fc")


@dataclass(frozen=True)
class Language:
    """The language model inside a live model, by module names (empty: the model itself).

    `core` is the decoder proper, with the layers; `scope` the widest module of the same config
    around it, a causal model or the whole of a plain one. `held` maps modules and tensors of the
    scope that are no language to the reason.
    """

    core: str
    scope: str
    embeddings: str
    head: str | None
    held: Mapping[str, str]

    def reason(self, name: str) -> str | None:
        """Why a tensor or module of the scope is held frozen; None where it is language."""
        return next((why for outer, why in self.held.items() if under(name, outer)), None)


def find_language(model: "PreTrainedModel") -> Language:
    """Find the language model of a live model.

    Raises `AlignmentError` for encoder-decoders and for models without a decoder around their
    input embeddings.
    """
    from transformers import PreTrainedModel

    kind = type(model).__name__
    _refuse_encoder_decoder(kind, model.config)
    embeddings = _input_embeddings(model)
    names = {id(module): name for name, module in model.named_modules()}
    around = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, PreTrainedModel) and _holds(module, embeddings)
    ]
    for _, module in around:
        _refuse_encoder_decoder(kind, module.config)
    core_name, core = around[-1]  # the innermost: modules come before what is in them
    decoder = model.get_decoder()
    if core is model and not _is_plain(model):
        raise AlignmentError(f"{kind}: names no language decoder to merge into")
    # Where a class has no decoder of its own, get_decoder may find a mere layer of that name.
    if isinstance(decoder, PreTrainedModel) and not _holds(decoder, embeddings):
        raise AlignmentError(
            f"{kind}: its input embeddings are outside its decoder {names[id(decoder)]}; take a VLM"
            " whose language model is one decoder"
        )
    scope_name, scope = next((n, m) for n, m in around if type(m.config) is type(core.config))
    head = model.get_output_embeddings()
    if head is None:
        head = scope.get_output_embeddings()
    return Language(
        core=core_name,
        scope=scope_name,
        embeddings=names[id(embeddings)],
        head=None if head is None else names[id(head)],
        held=_held(model, scope_name, (core_name, names[id(embeddings)])),
    )


def under(name: str, prefix: str) -> bool:
    """Whether a tensor or module is the named one or inside it; all is inside the empty name."""
    return not prefix or name == prefix or name.startswith(f"{prefix}.")


def join(prefix: str, name: str) -> str:
    """A module path below another; either may be empty, the model itself."""
    return f"{prefix}.{name}" if prefix and name else prefix or name


def _refuse_encoder_decoder(kind: str, config: "PretrainedConfig") -> None:
    if config.is_encoder_decoder:
        raise AlignmentError(
            f"{kind}: an encoder-decoder's layers meet no decoder-only model's; take a model whose"
            " language model is decoder-only"
        )


def _is_plain(model: "PreTrainedModel") -> bool:
    """Whether a model is a language model without its head, as `LlamaModel`."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING

    config = type(model.config)
    bare: Any = MODEL_MAPPING.get(config, None)
    return config in MODEL_FOR_CAUSAL_LM_MAPPING and bare is type(model)


def _input_embeddings(model: "PreTrainedModel") -> "torch.nn.Module":
    try:
        found: torch.nn.Module | None = model.get_input_embeddings()
    except NotImplementedError:  # what transformers' base class says of a model without any
        found = None
    if found is None:
        raise AlignmentError(f"{type(model).__name__}: names no input embeddings to merge into")
    return found


def _holds(module: "torch.nn.Module", part: "torch.nn.Module") -> bool:
    return any(inner is part for inner in module.modules())


def _held(model: "PreTrainedModel", scope: str, language: Collection[str]) -> dict[str, str]:
    """What of the scope is no language: the outermost modules and single tensors, and why.

    `language` names what is never held, with all that is around it.
    """
    others = _other_configs(model, model.get_submodule(scope))
    found: dict[str, str] = {}
    for inner, module in model.get_submodule(scope).named_modules():
        name = join(scope, inner)
        if any(under(name, outer) for outer in found) or any(under(n, name) for n in language):
            continue
        attribute = name.rpartition(".")[2]
        # Modules that are no PreTrainedModel may keep the config that they are built from, too.
        if type(vars(module).get("config")) in others:
            found[name] = f"{type(module).__name__}, a model of its own"
        elif _CROSS_ATTENTION.search(attribute) or "CrossAttention" in type(module).__name__:
            found[name] = "cross-attention"
        elif match := _MODALITY.search(attribute):
            found[name] = f"{match[1]} part"
        elif attribute in _IMAGE_TOKENS:
            found[name] = "rows of image tokens"
    for name, tensor in model.state_dict().items():
        if under(name, scope) and not tensor.is_floating_point():
            found.setdefault(name, "integers")
    return found


def _other_configs(model: "PreTrainedModel", scope: Any) -> set[type]:
    """The classes of the sub-configs that are not the language model's."""
    from transformers import PretrainedConfig

    values = [vars(model.config).get(name) for name in model.config.sub_configs]
    found = {type(value) for value in values if isinstance(value, PretrainedConfig)}
    return found - {type(scope.config), type(model.config)}
