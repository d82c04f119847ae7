"""Recipes written as mergekit's YAML and run by it, and its YAML read and run by us: one merge.

Merges the quickstart's language models, in the peer's own environment (made where there is none),
and prints JSON: for each recipe the largest difference between the two results, in float32, how
many elements were compared, and how many were left out: a trim's ties or rounding decide on them.

    python tools/mergekit_interchange.py
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml
from peer_environment import ROOT, run_peer

from vlmmerge import Checkpoint, Recipe, merge
from vlmmerge.recipes.mergekit.reading import read_mergekit
from vlmmerge.recipes.mergekit.writing import Facts, write_mergekit

MODELS = {name: str(ROOT / "data" / "quickstart" / name) for name in ("base", "ja", "th", "maths")}
GROUPS = {"all": 0.6, "embed": 0.3, "head": 0.4, "layers.1-2.mlp": 0.9, "layers.3": 0.2}
# Where the two differ by more and the method trims or elects, an element was cut otherwise.
TIE = 1e-4

# method -> per-source parameters, shared ones, whether it takes the base, and how many donors
OURS: dict[str, tuple[dict[str, Any], dict[str, Any], bool, int]] = {
    "linear": ({"weight": GROUPS}, {}, False, 2),
    "slerp": ({}, {"t": GROUPS}, False, 1),
    "nuslerp": ({"weight": GROUPS}, {}, False, 1),
    "multislerp": ({"weight": 0.5}, {"tangent": "projection"}, True, 2),
    "karcher": ({}, {}, False, 2),
    "task_arithmetic": ({"weight": GROUPS}, {"lambda": 0.8}, True, 2),
    "ties": ({"weight": GROUPS, "density": 0.4}, {}, True, 2),
    "breadcrumbs": ({"weight": GROUPS, "density": 0.4, "gamma": 0.02}, {}, True, 2),
    "breadcrumbs_ties": ({"weight": GROUPS, "density": 0.4, "gamma": 0.02}, {}, True, 2),
    "sce": ({}, {"select_topk": 0.5}, True, 2),
    "model_stock": ({}, {}, True, 2),
    "arcee_fusion": ({}, {}, False, 1),
    "nearswap": ({}, {"t": GROUPS}, False, 1),
}

RISING = {"weight": [0, 1]}
THEIRS: dict[str, dict[str, Any]] = {
    "gradients and filters": {
        "merge_method": "ties",
        "base_model": MODELS["base"],
        "models": [
            {"model": MODELS["ja"], "parameters": {"density": [1, 0.7, 0.1], "weight": 1.0}},
            {
                "model": MODELS["th"],
                "parameters": {
                    "density": 0.5,
                    "weight": [{"filter": "mlp", "value": [0, 0.3, 0.7, 1]}, {"value": 0.2}],
                },
            },
        ],
        "parameters": {"normalize": True, "int8_mask": True},
        "dtype": "float32",
    },
    "slices": {
        "merge_method": "task_arithmetic",
        "base_model": MODELS["base"],
        "slices": [
            {
                "sources": [
                    {"model": MODELS["ja"], "layer_range": [0, 3], "parameters": {"weight": 0.5}},
                    {"model": MODELS["base"], "layer_range": [0, 3]},
                    {
                        "model": MODELS["th"],
                        "layer_range": [0, 3],
                        "parameters": {"weight": [0, 1]},
                    },
                ]
            },
            {
                "sources": [
                    {"model": MODELS["ja"], "layer_range": [3, 4], "parameters": {"weight": 0.9}},
                    {"model": MODELS["base"], "layer_range": [3, 4]},
                    {
                        "model": MODELS["th"],
                        "layer_range": [3, 4],
                        "parameters": {"weight": [0, 1]},
                    },
                ]
            },
        ],
        "parameters": {"normalize": True, "lambda": 0.9},
        "dtype": "float32",
    },
}


def main() -> None:
    found = {}
    for method, (per_source, shared, based, donors) in OURS.items():
        names = ["th", "maths"][:donors]
        recipe = Recipe.from_config(
            {
                "models": {
                    "recipient": MODELS["ja"],
                    "base": MODELS["base"] if based else None,
                    "donors": {name: MODELS[name] for name in names},
                },
                "method": method,
                "coefficients": dict.fromkeys(("recipient", *names), per_source),
                "shared": shared,
                "dtype": "float32",
            }
        )
        facts = Facts.of(Checkpoint.open(MODELS["ja"]))
        found[method] = compared(recipe, write_mergekit(recipe, facts))
    for name, node in THEIRS.items():
        found[name] = compared(Recipe.from_config(read_mergekit(node, lambda _: 4)), node)
    print(json.dumps(found, indent=2))


def compared(recipe: Recipe, theirs: dict[str, Any]) -> dict[str, float]:
    """Both merges of one meaning, and how far they are apart."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "theirs.yml")
        # Tokenizers are alike; theirs would be matched again, by a file that is not there.
        said = {key: value for key, value in theirs.items() if key != "tokenizer_source"}
        config.write_text(yaml.safe_dump(said), encoding="utf-8")
        run_peer(Path(__file__).with_name("peer_merge.py"), str(config), f"{folder}/theirs")
        merge(recipe, f"{folder}/ours")
        ours, peers = (Checkpoint.open(f"{folder}/{name}") for name in ("ours", "theirs"))
        largest, elements, left_out = 0.0, 0, 0
        for name in ours.tensors:
            apart = (ours.read(name).float() - peers.read(name).float()).abs()
            odd = apart > TIE if recipe.method in CUTTING else torch.zeros_like(apart) > 0
            largest = max(largest, float(apart[~odd].max()))
            elements += apart.numel()
            left_out += int(odd.sum())
    return {"largest_difference": largest, "elements": elements, "left_out": left_out}


CUTTING = ("ties", "breadcrumbs", "breadcrumbs_ties", "sce", "arcee_fusion")

if __name__ == "__main__":
    main()
