"""Checkpoint names and live names: the same tensors before and after transformers loads them."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from vlmmerge.errors import AlignmentError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def live_names(names: Iterable[str], model: "PreTrainedModel") -> dict[str, str]:
    """The live name of every checkpoint name, by transformers' own conversion mapping.

    Names that the model does not have come back as they would be looked up.
    Raises `AlignmentError` for tensors that transformers does not rename but rebuilds.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, rename_source_key

    transforms: list[Any] = get_model_conversion_mapping(model)
    renamings = [t for t in transforms if isinstance(t, WeightRenaming)]
    converters = [t for t in transforms if not isinstance(t, WeightRenaming)]
    state = model.state_dict()
    renamed = {}
    for name in names:
        live, pattern = rename_source_key(
            name, renamings, converters, model.base_model_prefix, state
        )
        if pattern is not None:
            raise AlignmentError(
                f"{type(model).__name__}: {name} is stored in another form than it is loaded in"
                f" ({live}), which cannot be merged yet"
            )
        renamed[name] = live
    return renamed
