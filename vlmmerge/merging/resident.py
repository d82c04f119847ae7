"""A recipe into a live model, in place: sources stay in memory, only what changed is redone."""

from typing import TYPE_CHECKING

from vlmmerge.anatomy import RECIPIENT, Alignment, Meeting
from vlmmerge.checkpoints import torch_dtype
from vlmmerge.merging.combine import Operands, coefficient_key, combine, gather, store
from vlmmerge.merging.reading import LiveTensors
from vlmmerge.merging.stream import merged_dtype
from vlmmerge.recipes import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ResidentMerge:
    """Merges recipes of one set of models into one live model.

    The operands of the method that is used most, `resident`, are kept in memory; other methods
    (those of the baselines) read the checkpoints again.
    """

    def __init__(self, alignment: Alignment, model: "PreTrainedModel", resident: Recipe) -> None:
        self._alignment = alignment
        self._read = LiveTensors(alignment).read
        self._live = model.state_dict(keep_vars=True)
        self._takes = resident.rule.takes
        self._operands = {m.part: self._gather(resident, m) for m in alignment.meetings}
        self._done: dict[str, tuple[object, ...]] = {}

    def apply(self, recipe: Recipe) -> None:
        """Merge `recipe` into the live model.

        Each weight is rounded to the dtype that it would be saved in, then held in the model's own,
        so that what is scored is what ships. Raises `EngineError` where a weight is not finite.
        """
        import torch

        with torch.no_grad():
            for meeting in self._alignment.meetings:
                key = (*coefficient_key(recipe, meeting), recipe.dtype)
                if self._done.get(meeting.part) == key:
                    continue
                self._done.pop(meeting.part, None)
                merged = combine(recipe, meeting, self._operands_for(recipe, meeting))
                dtype = torch_dtype(merged_dtype(recipe, meeting))
                stored = store(merged, dtype, meeting.live)
                self._live[meeting.live].copy_(stored)
                self._done[meeting.part] = key

    def _operands_for(self, recipe: Recipe, meeting: Meeting) -> Operands:
        if recipe.rule.takes == self._takes:
            return self._operands[meeting.part]
        return self._gather(recipe, meeting)

    def _gather(self, recipe: Recipe, meeting: Meeting) -> Operands:
        return gather(recipe, meeting, self._read(RECIPIENT, meeting.live), self._read)
