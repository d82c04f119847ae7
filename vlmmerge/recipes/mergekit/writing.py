"""A recipe as mergekit's YAML, for what it can say."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vlmmerge.anatomy import RECIPIENT
from vlmmerge.anatomy.cells import Cell
from vlmmerge.checkpoints import Checkpoint, Source
from vlmmerge.errors import ConfigError
from vlmmerge.methods import Value
from vlmmerge.recipes.groups import lookup
from vlmmerge.recipes.mergekit.correspondence import PEERS, Peer, their_name, turned
from vlmmerge.recipes.mergekit.settings import cells_of, conditions
from vlmmerge.recipes.recipe import Recipe


@dataclass(frozen=True)
class Facts:
    """What a recipe leaves to its recipient: how deep it is, and what its weights are stored in."""

    layers: int
    dtype: str

    @classmethod
    def of(cls, recipient: Checkpoint) -> "Facts":
        """Read off a config. Raises `ConfigError` for a VLM: mergekit loses weights of those."""
        config = recipient.config
        if "num_hidden_layers" not in config:
            raise ConfigError(
                f"{recipient.path}: no plain language model, and mergekit takes no other"
            )
        dtype = config.get("dtype", config.get("torch_dtype"))
        return cls(int(config["num_hidden_layers"]), str(dtype or "float32"))


def write_mergekit(recipe: Recipe, facts: Facts) -> dict[str, Any]:
    """What mergekit must be told to make the merge of `recipe`, computed in float32.

    The tensors are ours but for ties (which of equal magnitudes a trim keeps) and random masks.
    Raises `ConfigError` that names what mergekit cannot express.
    """
    peer = PEERS.get(recipe.method)
    if peer is None:
        raise _cannot(f"the method {recipe.method}")
    _check(recipe, peer)
    cells = cells_of(facts.layers)
    base = recipe.models.base
    end = peer.recipient == "end"
    models = []
    for source in recipe.sources:
        spec = recipe.models.recipient if source == RECIPIENT else recipe.models.donors[source]
        if source == RECIPIENT and spec == base and peer.recipient == "base":
            continue  # its task vector is zero
        said = {
            theirs: conditions(_by_cell(recipe, source, ours, cells), facts.layers)
            for ours, theirs in peer.per_source.items()
        }
        models.append({"model": _path(spec), **({"parameters": said} if said else {})})
    parameters = {
        their_name(theirs): conditions(
            {c: turned(theirs, v) for c, v in _by_cell(recipe, None, ours, cells).items()},
            facts.layers,
        )
        for ours, theirs in peer.shared.items()
    }
    if peer.normalize is not None and "normalize" not in peer.shared:
        parameters["normalize"] = False
    if peer.rescale is not None:
        parameters["rescale"] = peer.rescale and recipe.shared.get("rescale") == "l1_norm"
    written: dict[str, Any] = {"merge_method": recipe.method}
    if end:
        written["base_model"] = _path(recipe.models.recipient)
    elif base is not None:
        written["base_model"] = _path(base)
    written["models"] = models
    if parameters:
        written["parameters"] = parameters
    written |= {"dtype": "float32", "out_dtype": recipe.dtype or facts.dtype}
    if recipe.vocabulary == "union":
        written["tokenizer_source"] = "union"
    elif peer.recipient == "base" and recipe.models.recipient != base:
        written["tokenizer_source"] = _path(recipe.models.recipient)
    return written


def _check(recipe: Recipe, peer: Peer) -> None:
    if recipe.embeddings != "merge":
        raise _cannot(f"embeddings: {recipe.embeddings}")
    if recipe.layer_path is not None:
        raise _cannot("layer_path")
    for name, donor in recipe.models.donors.items():
        if donor.base is not None:
            raise _cannot(f"models.donors.{name}.base")
    for parameter in recipe.rule.shared:
        value = recipe.shared.get(parameter.name, parameter.default)
        if value != peer.ours.get(parameter.name, value):
            raise _cannot(f"shared.{parameter.name}: {value}")
    for parameter in recipe.rule.per_source:
        if parameter.name not in peer.per_source:
            for source, values in recipe.coefficients.items():
                if values.get(parameter.name, parameter.default) != parameter.default:
                    raise _cannot(f"coefficients.{source}.{parameter.name}")
    if peer.rescale:
        rescale = recipe.shared.get("rescale", "inverse_density")
        if rescale not in ("l1_norm", "none") and _thins(recipe):
            raise _cannot(f"shared.rescale: {rescale} (l1_norm and none can be)")
    if recipe.vocabulary == "union" and recipe.models.recipient != (
        recipe.models.base if peer.recipient == "base" else recipe.models.recipient
    ):
        raise _cannot("vocabulary: union with another recipient than the base")


def _thins(recipe: Recipe) -> bool:
    """Whether anything is dropped, so that it matters how the rest is rescaled."""
    densities = [recipe.coefficients.get(s, {}).get("density", 1.0) for s in recipe.sources]
    return any(
        value != 1.0
        for density in densities
        for value in (density.values() if isinstance(density, Mapping) else [density])
    )


def _by_cell(recipe: Recipe, source: str | None, name: str, cells: list[Cell]) -> dict[Cell, Value]:
    rule = recipe.rule
    if source is None:
        default = next(p.default for p in rule.shared if p.name == name)
        values: Any = recipe.shared.get(name, default)
    else:
        default = next(p.default for p in rule.per_source if p.name == name)
        values = recipe.coefficients.get(source, {}).get(name, default)
    return {cell: lookup(values, cell, name) for cell in cells}


def _path(source: Source) -> str:
    return source.path if source.revision is None else f"{source.path}@{source.revision}"


def _cannot(what: str) -> ConfigError:
    return ConfigError(f"{what}: mergekit cannot express it")
