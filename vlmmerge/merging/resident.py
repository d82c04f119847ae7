"""A recipe into a live model, in place: sources stay in memory, only what changed is redone."""

from typing import TYPE_CHECKING

from vlmmerge.anatomy import Alignment
from vlmmerge.checkpoints import torch_dtype
from vlmmerge.merging.reading import LiveTensors, matrix
from vlmmerge.merging.stream import merged_dtype
from vlmmerge.merging.tensor import MergedTensor, coefficient_key, not_finite
from vlmmerge.methods.kernels import ModelCuts, Workers
from vlmmerge.recipes import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ResidentMerge:
    """Merges recipes of one set of models into one live model.

    Sources are mapped and stay so, tensors that adapters change are made once and kept; what a
    method must know of a tensor as a whole is found once.
    """

    def __init__(
        self,
        alignment: Alignment,
        model: "PreTrainedModel",
        donors: list[str],
        threads: int | None = None,
    ) -> None:
        self._live = model.state_dict(keep_vars=True)
        self._workers = Workers(threads)
        tensors, cuts = LiveTensors(alignment, hold=True), ModelCuts()
        self._tensors = [
            MergedTensor(meeting, donors, tensors, self._workers, cuts)
            for meeting in alignment.meetings
        ]
        cuts.tensors = [tensor.measured for tensor in self._tensors]
        self._done: dict[str, tuple[object, ...]] = {}

    def apply(self, recipe: Recipe) -> None:
        """Merge `recipe` into the live model.

        Each weight is rounded to the dtype that it would be saved in, then held in the model's own,
        so that what is scored is what ships. Raises `EngineError` where a weight is not finite.
        """
        import torch

        with torch.no_grad():
            for tensor in self._tensors:
                part = tensor.meeting.part
                key = coefficient_key(recipe, tensor.meeting)
                if self._done.get(part) != key:
                    self._done.pop(part, None)
                    self._redo(recipe, tensor)
                    self._done[part] = key

    def _redo(self, recipe: Recipe, tensor: MergedTensor) -> None:
        form = tensor.form(recipe)
        dtype = torch_dtype(merged_dtype(recipe, tensor.meeting))
        live = self._live[tensor.meeting.live]
        out = live.view(matrix(live.shape))
        finite = self._workers.map(
            lambda span: tensor.merge(form, span, dtype, out[slice(*span)]), tensor.spans
        )
        if not all(list(finite)):
            raise not_finite(tensor.meeting.live, dtype)
