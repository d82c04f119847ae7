"""Which tensors of a model are its language backbone, and which of a donor's meet them."""

from vlmmerge.anatomy.adapting import stand
from vlmmerge.anatomy.alignment import BASE, RECIPIENT, Alignment, Meeting, Models, align, base_of
from vlmmerge.anatomy.anatomy import Anatomy
from vlmmerge.anatomy.cells import Cell

__all__ = [
    "BASE",
    "RECIPIENT",
    "Alignment",
    "Anatomy",
    "Cell",
    "Meeting",
    "Models",
    "align",
    "base_of",
    "stand",
]
