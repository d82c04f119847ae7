"""Split a model into its language backbone and its frozen parts, as transformers builds it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from vlmmerge.checkpoints import Checkpoint
from vlmmerge.errors import AlignmentError, CheckpointError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Anatomy:
    """Which live tensors of a model are the language backbone, and which are frozen.

    `backbone` and `frozen` map live tensor names to shapes; `parts` maps each backbone name to its
    name relative to the decoder (`embed.weight`, `layers.0.self_attn.q_proj.weight`, `norm.weight`,
    `head.weight`), under which models of different wrapping meet.
    """

    model_class: str
    backbone: Shapes
    frozen: Shapes
    parts: Mapping[str, str]
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
    """The transformers config of a folder, a checkpoint, or the config itself."""
    from transformers import AutoConfig, PretrainedConfig

    if isinstance(model, PretrainedConfig):
        return model
    path = model.path if isinstance(model, Checkpoint) else Checkpoint.open(model).path
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (ValueError, KeyError, OSError, TypeError) as error:
        reason = str(error).split("\n")[0]
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

    for name in config.architectures or ():
        if isinstance(found := getattr(transformers, name, None), type):
            return found
    for mapping in (MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING):
        if type(config) in mapping:
            return mapping[type(config)]
    raise CheckpointError(f"{config.model_type}: transformers has no generating model of this type")


def build_meta(config: "PretrainedConfig") -> "PreTrainedModel":
    """The model on the meta device: names and shapes without weights."""
    import torch

    with torch.device("meta"):
        model: PreTrainedModel = model_class(config)._from_config(config)
    model.tie_weights()
    return model


def dissect(model: "PreTrainedModel") -> Anatomy:
    """The anatomy of a live model, on the meta device or not.

    The backbone is the decoder with its input embeddings and its output head.
    """
    decoder = model.get_decoder()
    if decoder is None or decoder is model or model.config.is_encoder_decoder:
        raise AlignmentError(f"{type(model).__name__}: names no language decoder to merge into")
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head is not None and head.weight is embeddings.weight
    names = {id(module): name for name, module in model.named_modules()}
    prefixes = {names[id(embeddings)]: "embed", names[id(decoder)]: ""}
    if head is not None:
        prefixes[names[id(head)]] = "head"

    tensors = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if tied:
        tensors = {n: s for n, s in tensors.items() if not n.startswith(f"{names[id(head)]}.")}
    parts = {}
    for name in tensors:
        for prefix, part in prefixes.items():
            if name.startswith(f"{prefix}."):
                rest = name.removeprefix(f"{prefix}.")
                parts[name] = f"{part}.{rest}" if part else rest
                break
    return Anatomy(
        type(model).__name__,
        MappingProxyType({name: tensors[name] for name in parts}),
        MappingProxyType({name: shape for name, shape in tensors.items() if name not in parts}),
        MappingProxyType(parts),
        tied,
    )
