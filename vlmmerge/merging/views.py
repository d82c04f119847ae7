"""Which rows of the sources meet: all of them, or those of the tokens that are shared."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlmmerge.anatomy import BASE, RECIPIENT, Meeting, base_of
from vlmmerge.merging.reading import matrix
from vlmmerge.methods.operands import Operands, View, Zeros

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Picked:
    """Rows of a view by number: int64 [n]; where it is -1, the row of `missing` instead."""

    view: View
    index: "torch.Tensor"
    missing: View | None = None

    @property
    def dtype(self) -> "torch.dtype":
        import torch

        if self.missing is None or self.missing.dtype == self.view.dtype:
            return self.view.dtype
        return torch.float32

    def read(self, first: int, last: int) -> "torch.Tensor":
        import torch

        index = self.index[first:last]
        known = index >= 0
        found = self._rows(index.clamp(min=0))
        if self.missing is None or bool(known.all()):
            return found.to(self.dtype)
        missing = self.missing.read(first, last).to(self.dtype)
        return torch.where(known.reshape(-1, 1), found.to(self.dtype), missing)

    def _rows(self, index: "torch.Tensor") -> "torch.Tensor":
        if not len(index):
            return self.view.read(0, 0)
        # Tokens lie near each other in most vocabularies: one span of rows, then a choice in it.
        low, high = int(index.min()), int(index.max()) + 1
        return self.view.read(low, high)[index - low]


def operands_of(
    meeting: Meeting,
    donors: Sequence[str],
    views: dict[str, View],
    shape: Sequence[int],
    informations: Sequence[View] = (),
    grams: Sequence[View] = (),
) -> Operands:
    """What a method reads of one tensor; `views`: those of the recipient and of every source.

    A row that a source lacks is taken from its base (its delta is then zero), and without a base
    from the recipient; there is no Fisher information of it. `informations` and `grams` are of the
    recipient, then of the donors.
    """
    rows, columns = matrix(shape)
    if meeting.rows is None:
        mine, base = views[RECIPIENT], views.get(BASE)
        own = {d: views.get(base_of(d)) or base for d in donors}
        theirs = [views[d] for d in donors]
    else:
        rows = len(meeting.rows.recipient)
        index = meeting.rows.sources
        mine = Picked(views[RECIPIENT], meeting.rows.recipient)
        base = Picked(views[BASE], index[BASE], mine) if BASE in views else None
        own = {
            d: Picked(views[n], index[n], base) if (n := base_of(d)) in views else base
            for d in donors
        }
        theirs = [Picked(views[d], index[d], own[d] or mine) for d in donors]
        places = [meeting.rows.recipient, *(index[d] for d in donors)][: len(informations)]
        informations = [
            Picked(view, place, Zeros(columns))
            for view, place in zip(informations, places, strict=True)
        ]
    bases = [] if base is None else [base, *(view for view in own.values() if view is not None)]
    return Operands(
        rows, columns, (mine, *theirs), base, tuple(bases), tuple(informations), tuple(grams)
    )
