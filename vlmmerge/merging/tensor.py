"""One backbone tensor: what meets in it, measured once, merged span by span by any recipe."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from vlmmerge.anatomy import RECIPIENT, Meeting
from vlmmerge.anatomy.cells import EMBED, HEAD
from vlmmerge.checkpoints.statistics import KINDS, Kind
from vlmmerge.errors import EngineError
from vlmmerge.merging.reading import LiveTensors, matrix
from vlmmerge.merging.views import operands_of
from vlmmerge.methods import Draws
from vlmmerge.methods.forms import Base, Blend, Form
from vlmmerge.methods.kernels import Measured, ModelCuts, Workers, merge_span, spans
from vlmmerge.methods.operands import Operands, View
from vlmmerge.recipes import Recipe

if TYPE_CHECKING:
    import torch

Span = tuple[int, int]


class MergedTensor:
    """A tensor of the recipient's backbone and the rows of every source that meet it.

    `shape` is what comes out: the recipient's, or longer by the donors' tokens.
    """

    def __init__(
        self,
        meeting: Meeting,
        donors: Sequence[str],
        tensors: LiveTensors,
        workers: Workers,
        cuts: ModelCuts | None = None,
    ) -> None:
        self.meeting = meeting
        self._tensors, self._checked = tensors, False
        self._views = {
            name: tensors.view(name, live)
            for name, live in {RECIPIENT: meeting.live, **meeting.sources}.items()
        }
        whole = tensors.shape(RECIPIENT, meeting.live)
        self.shape = whole if meeting.added is None else (meeting.added.length, *whole[1:])
        self._rows = matrix(whole)[0]
        self._whole = Operands(*matrix(whole), (self._views[RECIPIENT],))
        statistics = [
            _of_all(tensors, {RECIPIENT: meeting.live, **meeting.sources}, donors, kind)
            for kind in KINDS
        ]
        operands = operands_of(meeting, donors, self._views, whole, *statistics)
        self.measured = Measured(operands, workers, cuts)

    @property
    def spans(self) -> list[Span]:
        """The merged tensor's rows, in spans that `merge` makes one by one, in any order."""
        return spans(*matrix(self.shape))

    def form(self, recipe: Recipe) -> Form | None:
        """What `recipe` makes of the tensor; None where it stays the recipient's.

        Raises `CheckpointError` where a source holds numbers that are not finite.
        """
        if (
            not self._checked
        ):  # not before: a model's tensors are not read but when their turn comes
            for name, live in {RECIPIENT: self.meeting.live, **self.meeting.sources}.items():
                self._tensors.check(name, live)
            self._checked = True
        if self.meeting.cell in (EMBED, HEAD) and recipe.embeddings != "merge":
            return None if recipe.embeddings == "exclude" else Base()
        return recipe.rule.form(
            self.measured,
            recipe.coefficients_at(self.meeting.cell),
            recipe.shared_at(self.meeting.cell),
            Draws(recipe.seed, self.meeting.part, recipe.sources),
        )

    def merge(
        self, form: Form | None, span: Span, dtype: "torch.dtype", out: "torch.Tensor"
    ) -> bool:
        """Write rows `span` of the merge to `out`, rounded to `dtype`; whether all are finite.

        `out` [rows, columns] is of `dtype`, or float32 that then holds numbers of `dtype`.
        """
        first, last = span
        if form is not None and self.meeting.rows is None and self.meeting.added is None:
            return merge_span(form, self.measured.operands, span, dtype, out)
        inner = first, max(first, min(last, self._rows))
        finite = merge_span(Blend((1.0,)), self._whole, inner, dtype, out[: inner[1] - first])
        out[inner[1] - first :] = 0
        if form is not None:
            finite &= self._merge_met(form, inner, dtype, out)
        if self.meeting.added is not None:
            self._append(span, dtype, out)
        return finite

    def _merge_met(self, form: Form, span: Span, dtype: "torch.dtype", out: "torch.Tensor") -> bool:
        """Put the merged rows of those of `span` that meet in their places."""
        import torch

        operands = self.measured.operands
        if self.meeting.rows is None:
            return merge_span(form, operands, span, dtype, out[: span[1] - span[0]])
        places = self.meeting.rows.recipient  # in ascending order
        low, high = torch.searchsorted(places, torch.tensor(span)).tolist()
        if low == high:
            return True
        merged = torch.empty(high - low, operands.columns, dtype=dtype)
        finite = merge_span(form, operands, (low, high), dtype, merged)
        out[places[low:high] - span[0]] = merged.to(out.dtype)
        return finite

    def _append(self, span: Span, dtype: "torch.dtype", out: "torch.Tensor") -> None:
        """The new tokens' rows: the mean of those of the donors that know them.

        A token that only donors have is in no task vector, and no coefficient can be for it.
        """
        added = self.meeting.added
        assert added is not None
        low, high = max(span[0], added.first), min(span[1], added.first + len(added.tokens))
        if low >= high:
            return
        total = out.new_zeros(high - low, out.shape[1]).float()
        count = total.new_zeros(high - low, 1)
        for donor, ids in added.sources.items():
            for i, row in enumerate(ids[low - added.first : high - added.first].tolist()):
                if row >= 0:
                    total[i] += self._views[donor].read(row, row + 1)[0].float()
                    count[i] += 1
        out[low - span[0] : high - span[0]] = (total / count).to(dtype)


def _of_all(
    tensors: LiveTensors, live: Mapping[str, str], donors: Sequence[str], kind: Kind
) -> list[View]:
    """A statistic of every source, recipient first; nothing where one lacks it."""
    found = [tensors.statistic(name, live[name], kind) for name in (RECIPIENT, *donors)]
    known = [view for view in found if view is not None]
    return known if len(known) == len(found) else []


def not_finite(name: str, dtype: "torch.dtype") -> EngineError:
    """What to raise where a merged tensor holds numbers that are not finite."""
    return EngineError(f"{name}: the merge is not finite in {str(dtype).removeprefix('torch.')}")


def coefficient_key(recipe: Recipe, meeting: Meeting) -> tuple[object, ...]:
    """All of a recipe that one tensor's merge depends on, to tell when it need not be redone."""
    return (
        recipe.method,
        recipe.embeddings,
        recipe.seed,
        recipe.dtype,
        *(frozenset(c.items()) for c in _coefficients(recipe, meeting)),
    )


def _coefficients(recipe: Recipe, meeting: Meeting) -> list[Mapping[str, object]]:
    if meeting.cell in (EMBED, HEAD) and recipe.embeddings != "merge":
        return []
    return [*recipe.coefficients_at(meeting.cell), recipe.shared_at(meeting.cell)]
