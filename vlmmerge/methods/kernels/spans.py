"""One span of rows: merged, summed or counted, by the fastest loop there is for it."""

from typing import TYPE_CHECKING

from vlmmerge.methods.forms import Form
from vlmmerge.methods.kernels import fused, plain
from vlmmerge.methods.operands import Operands
from vlmmerge.methods.statistics import Quantity

if TYPE_CHECKING:
    import torch

Span = tuple[int, int]


def merge_span(
    form: Form, operands: Operands, span: Span, dtype: "torch.dtype", out: "torch.Tensor"
) -> bool:
    """Write the merged rows of a span into `out`, rounded to `dtype`; whether all are finite.

    `out` [rows of the span, columns] is of `dtype`, or float32 that then holds numbers of `dtype`.
    """
    if out.numel() == 0:
        return True
    finite = fused.merge_span(form, operands, span, dtype, out)
    return plain.merge_span(form, operands, span, dtype, out) if finite is None else finite


def sum_span(quantity: Quantity, operands: Operands, span: Span) -> "torch.Tensor":
    """The quantity of a span, float64."""
    return plain.sum_span(quantity, operands, span)


def count_span(
    quantity: Quantity, operands: Operands, span: Span, upper: int | None
) -> "torch.Tensor":
    """How many magnitudes there are by the bits of their float32, as an integer.

    By the upper 16 bits (int64 [32768]: none is negative), or by the lower 16 of those whose upper
    ones are `upper` (int64 [65536]).
    """
    counts = fused.count_span(quantity, operands, span, upper)
    return plain.count_span(quantity, operands, span, upper) if counts is None else counts


def count_equal(quantity: Quantity, operands: Operands, span: Span, threshold: float) -> int:
    """How many magnitudes of a span equal `threshold`."""
    found = fused.count_equal(quantity, operands, span, threshold)
    return plain.count_equal(quantity, operands, span, threshold) if found is None else found
