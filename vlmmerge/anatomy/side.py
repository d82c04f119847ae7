"""One model of a merge, its tensors sorted out: which are the backbone, where each lies."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vlmmerge.anatomy.adapting import fit_adapter
from vlmmerge.anatomy.anatomy import Anatomy, build_meta, dissect, load_config, model_class
from vlmmerge.anatomy.cells import cell_of, depth
from vlmmerge.anatomy.layout import Layout, Unit, layout_of
from vlmmerge.checkpoints import Checkpoint
from vlmmerge.checkpoints.headers import FLOATS
from vlmmerge.errors import AlignmentError, CheckpointError

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class Side:
    """A model and its part in an alignment.

    `parts`: part -> live name; `config`: the language model's. `dropped`: live tensors that its
    adapter changes and that are no backbone.
    """

    name: str
    checkpoint: Checkpoint
    anatomy: Anatomy
    layout: Layout
    config: "PretrainedConfig"
    parts: Mapping[str, str]
    dropped: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, checkpoint: Checkpoint) -> "Side":
        """Sort out a model's tensors, from its config and headers.

        Raises `AlignmentError` where weights are missing, quantised or not as the config says.
        """
        config = load_config(checkpoint)
        try:
            model = build_meta(_with_head(config, checkpoint))
        except CheckpointError as error:
            raise CheckpointError(f"{checkpoint.path}: {error}") from error
        anatomy = dissect(model)
        layout = layout_of({n: info.shape for n, info in checkpoint.tensors.items()}, model)
        _check_complete(checkpoint, anatomy, layout)
        for live, shape in anatomy.backbone.items():
            _check_mergeable(checkpoint, layout.units[live], live)
            _check_shape(checkpoint, layout.units[live], live, shape)
        for live, shape in anatomy.frozen.items():
            _check_shape(checkpoint, layout.units[live], live, shape)
        parts = {part: live for live, part in anatomy.parts.items()}
        dropped: tuple[str, ...] = ()
        if checkpoint.adapter is not None:
            fit = fit_adapter(checkpoint.adapter, config, model, anatomy)
            layout, dropped = replace(layout, deltas=fit.deltas), fit.frozen
        return cls(name, checkpoint, anatomy, layout, config.get_text_config(), parts, dropped)

    @property
    def layers(self) -> int:
        """How many layers the backbone has."""
        return depth(map(cell_of, self.parts))

    def partner(self, part: str) -> str | None:
        """The live name of a part; tied embeddings stand in for a missing head."""
        if part == "head.weight" and part not in self.parts and self.anatomy.tied:
            return self.parts["embed.weight"]
        return self.parts.get(part)

    def shape(self, part: str) -> tuple[int, ...]:
        """The shape of a part's tensor."""
        live = self.partner(part)
        assert live is not None
        return self.anatomy.backbone[live]

    @property
    def tokens(self) -> int:
        """How many tokens the config says that there are; without it, rows of the embedding."""
        said = getattr(self.config, "vocab_size", None)
        return said if isinstance(said, int) else self.shape("embed.weight")[0]

    def dtype(self, live: str) -> str:
        """The dtype that a live tensor of the backbone is stored in."""
        return self.checkpoint.tensors[self.layout.units[live].stored[0]].dtype


def _with_head(config: "PretrainedConfig", checkpoint: Checkpoint) -> "PretrainedConfig":
    """A config that names the class without a head, made to name the one with, if one is stored."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING

    found: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    bare: Any = MODEL_MAPPING.get(type(config), None)
    if found is None or bare is None or model_class(config) is not bare:
        return config
    if not any("head" in name for name in checkpoint.tensors):
        return config
    config = copy.deepcopy(config)
    config.architectures = [found.__name__]
    return config


def _check_complete(checkpoint: Checkpoint, anatomy: Anatomy, layout: Layout) -> None:
    everything = (*anatomy.backbone, *anatomy.frozen)
    missing = [name for name in everything if name not in layout.units]
    if missing:
        count = "1 weight is" if len(missing) == 1 else f"{len(missing)} weights are"
        raise AlignmentError(
            f"{checkpoint.path}: {count} missing, {missing[0]} first; fetch the model again"
        )


def _check_mergeable(checkpoint: Checkpoint, unit: Unit, live: str) -> None:
    """Refuse what is quantised, or of several dtypes."""
    infos = [checkpoint.tensors[name] for name in unit.stored]
    for info in infos:
        if info.dtype not in FLOATS:
            raise AlignmentError(
                f"{checkpoint.path}: {info.name} is {info.dtype}; quantised weights cannot be"
                " merged, take the model that they were made from"
            )
    if len({info.dtype for info in infos}) > 1:
        raise AlignmentError(
            f"{checkpoint.path}: the tensors that become {live} are stored in several dtypes;"
            " save the model again in one"
        )


def _check_shape(checkpoint: Checkpoint, unit: Unit, live: str, expected: tuple[int, ...]) -> None:
    """Refuse a tensor of another shape than the config's model has."""
    stored = unit.stored[0]
    rebuilt = unit.rebuilding
    found = checkpoint.tensors[stored].shape if rebuilt is None else rebuilt.shapes[live]
    if found != expected:
        raise AlignmentError(
            f"{checkpoint.path}: {stored} is {list(found)}, its config says {list(expected)}; take"
            " the config that it was saved with"
        )
