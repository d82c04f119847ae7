"""Tiny models of transformers' image-text-to-text types: default configs, sizes made small."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

HERE = Path(__file__)
TABLE: dict[str, dict[str, Any]] = yaml.safe_load(
    (HERE.parents[1] / "tests/anatomy/types.yaml").read_text(encoding="utf-8")
)
TINY: dict[str, dict[str, Any]] = yaml.safe_load(
    HERE.with_suffix(".yaml").read_text(encoding="utf-8")
)
TEXT: dict[str, Any] = TINY["text"]
OTHER = {**TEXT, **TINY["other"]}
OTHERS = re.compile("vision|visual|audio|vq|qformer|perceiver|sam|encoder_config")

MOST = 20_000_000  # weights of a model that is called tiny


def built(kind: str) -> "PreTrainedModel":
    """A type's tiny model, with the weights that transformers gives a new one.

    Raises `ValueError` where it is not tiny: some size of its config is not known here yet.
    """
    import torch
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    config = tiny(kind)
    own = TINY["types"].get(kind, {}).get("class")
    found: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.get(type(config), None)
    found = getattr(transformers, own) if own else found
    with torch.device("meta"):
        state = found._from_config(config).state_dict()
    if (size := sum(tensor.numel() for tensor in state.values())) > MOST:
        largest = max(state, key=lambda name: state[name].numel())
        shape = list(state[largest].shape)
        raise ValueError(f"{size:,} weights are not tiny; {largest} is {shape}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = found._from_config(config)
    return model


def tiny(kind: str) -> "PretrainedConfig":
    """A type's default config with small sizes, and what else it takes."""
    from transformers import CONFIG_MAPPING

    default = CONFIG_MAPPING[kind](**TABLE[kind].get("config", {})).to_dict()
    own = TINY["types"].get(kind, {}).get("config", {})
    config: PretrainedConfig = CONFIG_MAPPING[kind].from_dict(laid_over(shrunk(default, TEXT), own))
    return config


def shrunk(node: Mapping[str, Any], sizes: Mapping[str, Any]) -> dict[str, Any]:
    """A config with small sizes; of what it says layer by layer, a layer of every kind."""
    kept = kept_layers(node, sizes["num_hidden_layers"])
    found: dict[str, Any] = {}
    for key, value in node.items():
        if key == "num_hidden_layers":
            found[key] = len(kept)
        elif key == "per_layer_config":
            double = {name: 2 * size for name, size in sizes.items() if isinstance(size, int)}
            old = {int(layer): shrunk(own, double) for layer, own in (value or {}).items()}
            found[key] = {i: old[layer] for i, layer in enumerate(kept) if layer in old}
        elif isinstance(value, dict):
            found[key] = shrunk(value, OTHER if OTHERS.search(str(key)) else sizes)
        elif by_layer(node, value):
            found[key] = [sizes.get(key, value[layer]) for layer in kept]
        elif value and isinstance(value, list) == isinstance(sizes.get(key), list):
            found[key] = sizes.get(key, value)
        else:
            found[key] = value
    return found


def kept_layers(node: Mapping[str, Any], most: int) -> list[int]:
    """The first layer of every kind that a config tells apart, and others up to `most`."""
    own = {int(layer) for layer in node.get("per_layer_config") or ()}
    lists = [v for v in node.values() if by_layer(node, v) and len(set(map(str, v))) < 5]
    layers = range(node.get("num_hidden_layers") or 0)
    kinds: dict[str, int] = {}
    for layer in layers:
        kinds.setdefault(str((layer in own, [values[layer] for values in lists])), layer)
    first = list(kinds.values())
    others = [layer for layer in layers if layer not in first]
    return sorted(first + others[: max(0, most - len(first))])


def by_layer(node: Mapping[str, Any], value: object) -> bool:
    """Whether a value of a config has an item for every layer."""
    layers = node.get("num_hidden_layers") or 0
    return layers > 1 and isinstance(value, list) and len(value) == layers


def laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """A nested mapping with another's values in place of its own."""
    found = dict(below)
    for key, value in above.items():
        mine = found.get(key)
        nested = isinstance(mine, dict) and isinstance(value, dict)
        found[key] = laid_over(mine or {}, value) if nested else value
    return found


def varied(model: "PreTrainedModel", seed: int, size: float) -> "PreTrainedModel":
    """Every weight moved in place, norms and biases and buffers too: none is trivial."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in {id(t): t for t in model.state_dict(keep_vars=True).values()}.values():
            if tensor.is_floating_point():
                tensor.nan_to_num_(0, 1, -1)  # what a new model keeps unbounded
                tensor += torch.randn(tensor.shape, generator=generator) * size
    return model
