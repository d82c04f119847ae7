"""The reference, and what runs where no faster loop does: plain PyTorch, on any device."""

from typing import TYPE_CHECKING

from vlmmerge.methods.forms import Form
from vlmmerge.methods.operands import Operands
from vlmmerge.methods.statistics import Quantity

if TYPE_CHECKING:
    import torch


def merge_span(
    form: Form,
    operands: Operands,
    span: tuple[int, int],
    dtype: "torch.dtype",
    out: "torch.Tensor",
) -> bool:
    rounded = form.apply(operands.chunk(*span)).to(dtype)
    out.copy_(rounded)
    return bool(rounded.isfinite().all())


def sum_span(quantity: Quantity, operands: Operands, span: tuple[int, int]) -> "torch.Tensor":
    return quantity.of(operands.chunk(*span))


def count_span(
    quantity: Quantity, operands: Operands, span: tuple[int, int], upper: int | None
) -> "torch.Tensor":
    import torch

    bits = quantity.of(operands.chunk(*span)).reshape(-1).view(torch.int32)
    high = bits >> 16
    if upper is None:
        return torch.bincount(high, minlength=2**15)
    return torch.bincount(bits[high == upper] & 0xFFFF, minlength=2**16)


def count_equal(
    quantity: Quantity, operands: Operands, span: tuple[int, int], threshold: float
) -> int:
    return int((quantity.of(operands.chunk(*span)) == threshold).sum())
