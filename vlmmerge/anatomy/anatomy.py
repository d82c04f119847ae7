"""Split a model into its language backbone and its frozen parts, as transformers builds it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from vlmmerge.anatomy.language import find_language
from vlmmerge.anatomy.parts import name_parts, rows_by_token, ties_of
from vlmmerge.checkpoints import Checkpoint
from vlmmerge.checkpoints.strict_json import read_json
from vlmmerge.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

Shapes = Mapping[str, tuple[int, ...]]

# What transformers raises, on reading or building, for configs that make no model.
_BROKEN = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    AssertionError,
    RuntimeError,
    ArithmeticError,
)


@dataclass(frozen=True)
class Anatomy:
    """Which live tensors of a model are the language backbone, and which are frozen.

    `backbone` and `frozen` map live tensor names to shapes; `parts` maps each backbone name to its
    name relative to the decoder (`embed.weight`, `layers.0.self_attn.q_proj.weight`, `norm.weight`,
    `head.weight`), under which models of different wrapping meet. `by_token` are the parts that
    have one row for every token. `frozen_inside` are the frozen tensors within the language model,
    with the reason; `ties` maps live names that are other names for a tensor to that tensor, they
    are in neither `backbone` nor `frozen`. `buffers` are no weights: bounds, masks, tables. `tied`
    says that embedding and head are one tensor.
    """

    model_class: str
    backbone: Shapes
    frozen: Shapes
    parts: Mapping[str, str]
    by_token: frozenset[str]
    frozen_inside: Mapping[str, str]
    ties: Mapping[str, str]
    buffers: frozenset[str]
    tied: bool

    @classmethod
    def of(cls, model: "str | Path | Checkpoint | PretrainedConfig") -> "Anatomy":
        """The anatomy of a model folder, or of a config object of transformers.

        Builds the model on the meta device: no weight is read.
        Raises `CheckpointError` where transformers does not know the model's type and
        `AlignmentError` where it names no decoder.
        """
        return dissect(build_meta(load_config(model)))


def load_config(model: "str | Path | Checkpoint | PretrainedConfig") -> "PretrainedConfig":
    """The transformers config of a folder, a checkpoint, or the config itself.

    An `auto_map` beside a type that transformers has is ignored: remote code is never run.
    Raises `CheckpointError` where transformers does not know the type or cannot read the config.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig, __version__

    if isinstance(model, PretrainedConfig):
        return model
    if not isinstance(model, Checkpoint) and Path(model).expanduser().is_dir():
        path = Path(model).expanduser()  # a config is enough
        said = read_json(path / "config.json")
    else:
        checkpoint = model if isinstance(model, Checkpoint) else Checkpoint.open(model)
        path, said = checkpoint.path, dict(checkpoint.config)
    kind = said.get("model_type")
    if not isinstance(kind, str):
        raise CheckpointError(f"{path}: its config.json names no model_type; is it a model folder?")
    if kind not in CONFIG_MAPPING:
        remote = " and remote code is not run" if "auto_map" in said else ""
        raise CheckpointError(
            f"{path}: model_type {kind}: transformers {__version__} does not know it{remote}"
        )
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (*_BROKEN, OSError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: transformers cannot read its config ({reason})") from error
    return config


def model_class(config: "PretrainedConfig") -> Any:
    """The transformers class that a config's weights belong to.

    The class that the config names, or the image-text-to-text or causal class of its type.
    """
    import transformers
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    )

    named = config.architectures if isinstance(config.architectures, list | tuple) else ()
    for name in named:
        found = getattr(transformers, name, None) if isinstance(name, str) else None
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            wanted: Any = found.config_class  # None of a mere base
            if wanted is not None and isinstance(config, wanted):
                return found
    for mapping in (MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING):
        # `in` misses configs that two types share (Evolla's), get does not.
        if (found := mapping.get(type(config), None)) is not None:
            return found
    raise CheckpointError(f"{config.model_type}: transformers has no generating model of this type")


def build_meta(config: "PretrainedConfig") -> "PreTrainedModel":
    """The model on the meta device: names and shapes without weights.

    Raises `CheckpointError` where transformers cannot build it: a library that is not installed, a
    config that lacks what its class needs.
    """
    import torch

    found = model_class(config)
    try:
        with torch.device("meta"):
            # No attention runs, and the one that the config names may need what is not installed.
            model: PreTrainedModel = found._from_config(config, attn_implementation="eager")
    except ImportError as error:
        needed = " ".join(str(error).split())
        raise CheckpointError(f"{found.__name__}: {needed}") from error
    except _BROKEN as error:
        reason = str(error).split("\n")[0]
        raise CheckpointError(
            f"{found.__name__}: transformers cannot build it from its config ({reason})"
        ) from error
    model.tie_weights()
    return model


def dissect(model: "PreTrainedModel") -> Anatomy:
    """The anatomy of a live model, on the meta device or not.

    The backbone is the decoder with its input embeddings and its output head, without what in it
    reads other things than text.
    Raises `AlignmentError` where there is no such decoder.
    """
    language = find_language(model)
    state = model.state_dict(keep_vars=True)
    ties = ties_of(state)
    aliases: dict[str, list[str]] = {name: [name] for name in state if name not in ties}
    for alias, name in ties.items():
        aliases[name].append(alias)
    parts = name_parts(model, language, aliases)
    shapes = {name: tuple(state[name].shape) for name in aliases}
    reasons = {name: why for name in shapes if (why := language.reason(name))}
    embed, head = f"{language.embeddings}.weight", f"{language.head}.weight"
    return Anatomy(
        model_class=type(model).__name__,
        backbone=MappingProxyType({name: shapes[name] for name in parts}),
        frozen=MappingProxyType({name: s for name, s in shapes.items() if name not in parts}),
        parts=MappingProxyType(parts),
        by_token=rows_by_token(
            model,
            language,
            {alias: part for name, part in parts.items() for alias in aliases[name]},
        ),
        frozen_inside=MappingProxyType(reasons),
        ties=MappingProxyType(ties),
        buffers=frozenset(name for name, _ in model.named_buffers()),
        tied=ties.get(embed, embed) == ties.get(head, head),
    )
