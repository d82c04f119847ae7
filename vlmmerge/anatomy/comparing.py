"""Compare two sides of an alignment: what forbids their merge, and what may spoil it."""

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from vlmmerge.anatomy.side import Side
from vlmmerge.anatomy.tokenizers import SPECIAL, Vocabulary

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# What configs say of sizes that shapes show too: the better reason, where shapes differ.
# One meaning a line, under the names that configs use for it.
_SIZES = {
    "hidden_size": ("hidden_size",),
    "intermediate_size": ("intermediate_size", "ffn_dim"),
    "number of experts": ("num_experts", "num_local_experts", "n_routed_experts"),
}
# What must agree, and what shapes alone may not show.
_MUST = {
    "num_attention_heads": ("num_attention_heads",),
    "num_key_value_heads": ("num_key_value_heads", "num_attention_heads"),
    "head_dim": ("head_dim",),
    "activation": ("hidden_activation", "hidden_act", "activation_function"),
}
# What may differ, but changes what the donor's weights mean.
_SHOULD = {
    "norm epsilon": ("rms_norm_eps", "norm_eps", "layer_norm_eps", "layer_norm_epsilon"),
    "context length": ("max_position_embeddings",),
    "sliding window": ("sliding_window",),
    "experts per token": ("num_experts_per_tok",),
}
# What one family computes with and another does not know: also when only one side has it.
_ODD = (
    "residual_multiplier",
    "embedding_multiplier",
    "attention_multiplier",
    "logits_scaling",
    "logit_scale",
    "query_pre_attn_scalar",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "no_rope_layers",
)
_SAME = {"swish": "silu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}


def problems(mine: Side, side: Side) -> Iterator[str]:
    """All that forbids merging `side` into the recipient, each with what would have to change."""
    if mine.layers != side.layers:
        yield (
            f"{side.name} has {side.layers} layers, the recipient {mine.layers}:"
            " a model of the same depth is needed"
        )
    misshapen = list(_misshapen(mine, side))
    for meaning, names in {**(_SIZES if misshapen else {}), **_MUST}.items():
        for ours, theirs in _differing(mine, side, names):
            yield f"{side.name} has {meaning} {theirs}, the recipient {ours}: they must be the same"
    yield from _partnerless(mine, side)
    yield from misshapen


def warnings(mine: Side, side: Side) -> Iterator[str]:
    """Settings of `side` that differ from the recipient's, whose settings the merge keeps."""
    for meaning, names in _SHOULD.items():
        for ours, theirs in _differing(mine, side, names):
            yield f"{side.name} has {meaning} {theirs}, the recipient {ours}"
    for name in _ODD:
        ours, theirs = _setting(mine.config, (name,)), _setting(side.config, (name,))
        if ours != theirs:
            yield f"{side.name} has {name} {_shown(theirs)}, the recipient {_shown(ours)}"
    kinds = side.config.model_type, mine.config.model_type
    if not _akin(*kinds):
        yield "{} is of type {}, the recipient's language model of {}".format(side.name, *kinds)
    ours, theirs = _rope(mine.config), _rope(side.config)
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            yield (
                f"{side.name} has {key} {_shown(theirs.get(key))},"
                f" the recipient {_shown(ours.get(key))}"
            )
    if left := [name for name in side.layout.unknown if name not in side.layout.expected]:
        yield f"{side.name} has {_listed(left)} that its model does not have: left out"
    if "head.weight" in side.parts and "head.weight" not in mine.parts:
        yield f"{side.name} has an output head of its own; the recipient's is its embedding"


def vocabulary_warnings(name: str, mine: Vocabulary, theirs: Vocabulary) -> Iterator[str]:
    """Where a donor was tuned on other special tokens or another chat template."""
    for token in SPECIAL:
        ours, their = mine.special.get(token), theirs.special.get(token)
        if ours is not None and their is not None and ours != their:
            yield f"{name} has {token} {their}, the recipient {ours}"
    if theirs.template is not None and theirs.template != mine.template:
        yield f"{name} was tuned on another chat template than the recipient's, which is kept"


def _partnerless(mine: Side, side: Side) -> Iterator[str]:
    """Tensors of one side without a partner on the other, told once for each way."""
    lacking = [part for part in mine.parts if side.partner(part) is None]
    beyond = [part for part in side.parts if mine.partner(part) is None and part != "head.weight"]
    if lacking:
        yield (
            f"{side.name} lacks {_listed(lacking)}:"
            " a model of the recipient's architecture has all of them"
        )
    if beyond:
        yield (
            f"{side.name} has {_listed(beyond)} that the recipient lacks:"
            " they would be lost, take a model of the recipient's architecture"
        )


def _misshapen(mine: Side, side: Side) -> Iterator[str]:
    wrong = []
    for part in mine.parts:
        if side.partner(part) is None:
            continue
        first = part in mine.anatomy.by_token  # rows meet by token, however many there are
        ours, theirs = mine.shape(part), side.shape(part)
        if len(ours) != len(theirs) or ours[first:] != theirs[first:]:
            wrong.append((part, ours, theirs))
    if wrong:
        part, ours, theirs = wrong[0]
        more = f" and {len(wrong) - 1} more differ in shape" if len(wrong) > 1 else ""
        yield f"{side.name}'s {part} is {list(theirs)}, the recipient's {list(ours)}{more}"


def _differing(mine: Side, side: Side, names: tuple[str, ...]) -> Iterator[tuple[Any, Any]]:
    """The recipient's and the source's setting, where both have one and they differ."""
    ours, theirs = _setting(mine.config, names), _setting(side.config, names)
    if ours is not None and theirs is not None and ours != theirs:
        yield ours, theirs


def _setting(config: "PretrainedConfig", names: tuple[str, ...]) -> Any:
    """The first of `names` that a config sets, by layer where its layers differ."""
    if not config.is_heterogeneous:
        return _setting_of(config, names)
    by_layer = [_setting_of(layer, names) for layer in config.per_layer_config]
    return by_layer if any(value != by_layer[0] for value in by_layer) else by_layer[0]


def _setting_of(config: "PretrainedConfig", names: tuple[str, ...]) -> Any:
    """The first of `names` that a config sets; the head size follows from the heads."""
    for name in names:
        if (value := getattr(config, name, None)) is not None:
            return _SAME.get(value, value) if isinstance(value, str) else value
    if names == ("head_dim",):
        width, heads = (getattr(config, n, None) for n in ("hidden_size", "num_attention_heads"))
        if isinstance(width, int) and isinstance(heads, int):
            return width // heads
    return None


def _akin(one: str, other: str) -> bool:
    """Whether types are of one family: `qwen2_5_vl_text` and `qwen2`, `llama` and `mllama_text`."""

    def letters(kind: str) -> str:
        return re.sub(r"_text|_model|_vl|_omni|_|\d|v(?=_|$)", "", kind)

    one, other = letters(one), letters(other)
    return one in other or other in one


def _rope(config: "PretrainedConfig") -> dict[str, Any]:
    """The rotary settings, flat; dotted names where kinds of layers have their own."""
    found: dict[str, Any] = {}

    def visit(node: Mapping[str, Any], prefix: str) -> None:
        for key, value in node.items():
            if isinstance(value, Mapping):
                visit(value, f"{prefix}{key}.")
            elif value is not None:
                named = key if key.startswith(("rope", "mrope")) else f"rope_{key}"
                found[prefix + named] = value

    visit(config.to_dict().get("rope_parameters") or {}, "")
    return found


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{len(parts)} tensors ({parts[0]} first)"


def _shown(value: object) -> object:
    return "none" if value is None else value
