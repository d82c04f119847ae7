"""Adapters as donors: which model one stands on, and which live tensors it changes."""

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vlmmerge.anatomy.anatomy import Anatomy, build_meta, dissect, load_config
from vlmmerge.anatomy.layout import Layout, Unit, layout_of
from vlmmerge.checkpoints import Adapter, Checkpoint, Source
from vlmmerge.checkpoints.delta import Adapted, Delta
from vlmmerge.errors import AlignmentError, CheckpointError

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Fit:
    """What an adapter does to a model, by live names: `frozen` is changed and no backbone."""

    deltas: Mapping[str, Adapted]
    frozen: tuple[str, ...]
    unknown: tuple[str, ...]


@dataclass(frozen=True)
class Reassembled:
    """A live tensor some of whose stored pieces an adapter of older names changes, as experts."""

    unit: Unit
    pieces: Mapping[str, Delta]
    shape: tuple[int, ...]
    whole: bool = True

    def rows(self, base: "torch.Tensor", first: int = 0) -> "torch.Tensor":
        """The adapted tensor, float32, of all of the base's."""
        stored = self.unit.save({self.unit.live[0]: base.float()})
        changed = {n: d.rows(stored[n]) for n, d in self.pieces.items()}
        return self.unit.load({**stored, **changed})[self.unit.live[0]]


def stand(
    adapter: Adapter, own: Checkpoint | None, recipient: Checkpoint, base: Checkpoint | None
) -> tuple[Checkpoint, Checkpoint | None]:
    """An adapter on the model that it was trained on, and that model if it is not `base`.

    `own` is what the recipe names; then comes what its config names, if it is the base, the
    recipient or at hand. Low ranks alone are the same at any model: they then stand on the base or
    the recipient, whichever has tensors of their names. Raises `AlignmentError` where the model
    is needed and is not at hand.
    """
    if own is not None:
        return replace(own, adapter=adapter), own
    known = [model for model in (base, recipient) if model is not None]
    found = next((model for model in known if _same(adapter.base, model.source)), None)
    if found is None:
        found = _at_hand(adapter)
    if found is None:
        found = next((model for model in known if not _unknown(adapter, model)), recipient)
        named = "the base" if found is base else "the recipient"
        said = f"{adapter.source.path}: the model that it was trained on is not at hand; its low"
        notes = (*adapter.notes, f"{said} ranks are added to {named}")
        adapter = replace(adapter, copies={}, notes=notes)
    return replace(found, adapter=adapter), None if found is base else found


def _same(one: Source | None, other: Source) -> bool:
    if one is None:
        return False
    mine, theirs = (os.path.realpath(os.path.expanduser(s.path)) for s in (one, other))
    if os.path.exists(mine):
        return mine == theirs
    return one.path == other.path and one.revision in (None, other.revision)


def _at_hand(adapter: Adapter) -> Checkpoint | None:
    """The model that an adapter's config names; None where it is elsewhere and not needed."""
    needed = (
        f"{adapter.source.path}: DoRA and modules_to_save are changes of the very model that it was"
        " trained on; name it, as {path: ..., base: ...}"
    )
    if adapter.base is None:
        if adapter.absolute:
            raise AlignmentError(needed)
        return None
    if not adapter.absolute and not os.path.isdir(os.path.expanduser(adapter.base.path)):
        return None  # nothing is downloaded that is not needed
    try:
        return Checkpoint.open(adapter.base)
    except CheckpointError as error:
        if adapter.absolute:
            raise AlignmentError(f"{needed} ({error})") from error
        return None


def _unknown(adapter: Adapter, model: Checkpoint) -> tuple[str, ...]:
    """The adapter's tensors that a model does not have."""
    built = build_meta(load_config(model))
    shapes = {name: delta.shape for name, delta in adapter.deltas.items()}
    modules = {name for name, _ in built.named_modules()}
    return (*layout_of(shapes, built).unknown, *(n for n in adapter.stacked if n not in modules))


def fit_adapter(
    adapter: Adapter, config: "PretrainedConfig", model: "PreTrainedModel", anatomy: Anatomy
) -> Fit:
    """What an adapter does to a live model (on the meta device).

    One that was trained on the language model alone fits a VLM by parts. Raises `AlignmentError`
    where tensors are unknown, of other shapes, or untied by the adapter.
    """
    fit = _fit(adapter, model, anatomy)
    if fit.unknown:
        alone = _fit_by_parts(adapter, config, anatomy) or _fit_by_names(adapter, model, anatomy)
        fit = alone or fit
    if fit.unknown:
        more = f" and {len(fit.unknown) - 1} more" if len(fit.unknown) > 1 else ""
        raise AlignmentError(
            f"{adapter.source.path}: changes {fit.unknown[0]}{more}, which"
            f" {anatomy.model_class} does not have; name the model that it was trained on, as"
            " {path: ..., base: ...}"
        )
    for live, delta in fit.deltas.items():
        if delta.shape != anatomy.backbone[live]:
            raise AlignmentError(
                f"{adapter.source.path}: its {live} is {list(delta.shape)}, its model's"
                f" {list(anatomy.backbone[live])}; name the model that it was trained on"
            )
    return fit


def _fit_by_parts(adapter: Adapter, config: "PretrainedConfig", anatomy: Anatomy) -> Fit | None:
    """How an adapter of a VLM's language model alone fits the VLM; None where it does not."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    text = copy.deepcopy(config.get_text_config())
    plain: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(text), None)
    if plain is None:  # a config of the VLM's own: the plain model has another
        return None
    text.architectures = [plain.__name__]
    model = build_meta(text)
    alone = dissect(model)
    fit = _fit(adapter, model, alone)
    lives = {part: live for live, part in anatomy.parts.items()}
    parts = {live: alone.parts[live] for live in fit.deltas}
    if fit.unknown or not lives.keys() >= set(parts.values()):
        return None
    return Fit({lives[parts[live]]: d for live, d in fit.deltas.items()}, fit.frozen, ())


def _fit_by_names(adapter: Adapter, model: "PreTrainedModel", anatomy: Anatomy) -> Fit | None:
    """The same where transformers cannot say which plain model a VLM's language model is.

    Nearly all have the names of Llama.
    """
    lives = {part: live for live, part in anatomy.parts.items()}
    known = {"embed_tokens.weight": "embed.weight", "lm_head.weight": "head.weight"}
    renamed = {}
    for name, delta in adapter.deltas.items():
        part = name.removeprefix("model.")
        renamed[lives.get(known.get(part, part), "")] = delta
    if "" in renamed or adapter.stacked:
        return None
    return _fit(replace(adapter, deltas=renamed, copies={}), model, anatomy)


def _fit(adapter: Adapter, model: "PreTrainedModel", anatomy: Anatomy) -> Fit:
    layout = layout_of({name: d.shape for name, d in adapter.deltas.items()}, model)
    names = {
        live: (*unit.stored, *layout.also.get(live, ())) for live, unit in layout.units.items()
    }
    found: dict[str, Adapted] = {
        live: _joined(adapter, live, names[live], layout, model, anatomy)
        for live in names
        if live in anatomy.backbone
    }
    stacks, lost = _stacks(adapter, model)
    found |= {live: stack for live, stack in stacks.items() if live in anatomy.backbone}
    frozen = (live for live in (*names, *stacks) if live not in anatomy.backbone)
    return Fit(found, tuple(frozen), (*layout.unknown, *lost))


def _stacks(adapter: Adapter, model: "PreTrainedModel") -> tuple[dict[str, Adapted], list[str]]:
    """What an adapter does to modules' own parameters, and modules that the model does not have."""
    found: dict[str, Adapted] = {}
    modules = dict(model.named_modules())
    for name in adapter.stacked.keys() & modules.keys():
        module = modules[name]
        own = {n: tuple(p.shape) for n, p in module.named_parameters(recurse=False)}
        across = bool(getattr(module, "is_transposed", False))
        stacks = adapter.stacks(name, own, across)
        found |= {f"{name}.{leaf}": stack for leaf, stack in stacks.items()}
    return found, [name for name in adapter.stacked if name not in modules]


def _joined(
    adapter: Adapter,
    live: str,
    names: Sequence[str],
    layout: Layout,
    model: "PreTrainedModel",
    anatomy: Anatomy,
) -> Adapted:
    """All that an adapter does to one live tensor, under whichever names it has."""
    unit = layout.units[live]
    deltas = {name: adapter.deltas[name] for name in names}
    if unit.rebuilding is not None:
        if len(unit.live) > 1:
            raise AlignmentError(
                f"{adapter.source.path}: {names[0]} is several tensors in {anatomy.model_class};"
                " merge the adapter into its model first"
            )
        return Reassembled(unit, deltas, unit.rebuilding.shapes[live])
    if type(model.get_submodule(live.rpartition(".")[0])).__name__ == "Conv1D":  # GPT-2's
        deltas = {name: delta.turned for name, delta in deltas.items()}
    saved = [delta.saved for delta in deltas.values() if delta.saved is not None]
    aliases = 1 + sum(name == live for name in anatomy.ties.values())
    pairs = tuple(pair for delta in deltas.values() for pair in delta.pairs)
    if (saved and len(saved) < aliases) or (saved and pairs):
        raise AlignmentError(
            f"{adapter.source.path}: saves {names[0]} apart from what its model ties to it; untie"
            " the model (tie_word_embeddings), and name it, as {path: ..., base: ...}"
        )
    magnitudes = [delta.magnitude for delta in deltas.values() if delta.magnitude is not None]
    if magnitudes and len(pairs) > 1:
        raise AlignmentError(
            f"{adapter.source.path}: DoRA of {' and '.join(names)}, which its model ties; merge the"
            " adapter into its model first"
        )
    copies = [adapter.copies[name] for name in names if name in adapter.copies]
    saved = saved or copies[:1]
    shifts = [delta.shift for delta in deltas.values() if delta.shift is not None]
    return Delta(
        pairs,
        saved[0] if saved else None,
        magnitudes[0] if magnitudes else None,
        shifts[0] if shifts else None,
        tuple(saved[1:]),
    )
