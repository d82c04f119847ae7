"""Compiled loops over spans that lie in the CPU's memory: one pass, the numbers of `plain`.

Every function says whether it had a loop for what was asked, and else has done nothing.
"""

import logging
from functools import cache
from typing import TYPE_CHECKING, Any

from vlmmerge.methods.forms import Base, Blend, Form
from vlmmerge.methods.kernels.packing import pack
from vlmmerge.methods.operands import Operands
from vlmmerge.methods.statistics import Magnitude, Quantity

if TYPE_CHECKING:
    import numpy as np
    import torch

_LOG = logging.getLogger(__name__)

Span = tuple[int, int]

_AS_F32 = 3  # as in `tiles`


def merge_span(
    form: Form, operands: Operands, span: Span, dtype: "torch.dtype", out: "torch.Tensor"
) -> bool | None:
    """As `plain.merge_span`; None where there is no loop for it."""
    import torch

    packed = pack(form)
    if packed is None or not available():
        return None
    read = _read(form, operands, span)
    places = _places(read)
    target, rounded = _code(out), _codes().get(dtype)
    if places is None or target is None or rounded is None:
        return None
    if out.dtype != dtype:
        if out.dtype != torch.float32:
            return None
        target = _AS_F32 + rounded
    from vlmmerge.methods.kernels import loops

    finite = loops.merge(
        packed.kind,
        places,
        out.data_ptr(),
        target,
        packed.keeps,
        packed.numbers,
        packed.normalize,
        span[0] * operands.columns,
        out.numel(),
    )
    return bool(finite)


def count_span(
    quantity: Quantity, operands: Operands, span: Span, upper: int | None
) -> "torch.Tensor | None":
    """As `plain.count_span`; None where there is no loop for it."""
    import torch

    places = _delta_places(quantity, operands, span)
    if places is None:
        return None
    from vlmmerge.methods.kernels import counting

    counts = torch.zeros(2**15 if upper is None else 2**16, dtype=torch.int64)
    n = (span[1] - span[0]) * operands.columns
    counting.count(places[0], n, -1 if upper is None else upper, counts.numpy())
    return counts


def count_equal(quantity: Quantity, operands: Operands, span: Span, threshold: float) -> int | None:
    """As `plain.count_equal`; None where there is no loop for it."""
    import numpy as np

    places = _delta_places(quantity, operands, span)
    if places is None:
        return None
    from vlmmerge.methods.kernels import counting

    n = (span[1] - span[0]) * operands.columns
    return int(counting.count_equal(places[0], n, np.float32(threshold)))


@cache
def available() -> bool:
    """Whether numba is there; what it would do is done more slowly without."""
    try:
        import numba  # noqa: F401
    except ImportError as error:
        _LOG.warning("merging goes on without compiled loops: numba cannot be imported (%s)", error)
        return False
    return True


def _read(form: Form, operands: Operands, span: Span) -> "list[torch.Tensor]":
    """The rows a form is of: every source's; for task vectors each one's base, and the base."""
    if isinstance(form, Blend):
        return [view.read(*span) for view in operands.sources]
    assert operands.base is not None
    base = operands.base.read(*span)
    if isinstance(form, Base):
        return [base]
    sources = [view.read(*span) for view in operands.sources]
    own = [base if b is operands.base else b.read(*span) for b in operands.bases]
    return [*sources, *own, base]


def _delta_places(
    quantity: Quantity, operands: Operands, span: Span
) -> "tuple[np.ndarray[Any, Any], list[torch.Tensor]] | None":
    """Where a source and its base lie, and what keeps them there."""
    if not isinstance(quantity, Magnitude) or not available():
        return None
    views = operands.sources[quantity.source], operands.bases[quantity.source]
    read = [view.read(*span) for view in views]
    places = _places(read)
    return None if places is None else (places, read)


def _places(tensors: "list[torch.Tensor]") -> "np.ndarray[Any, Any] | None":
    """Address and code of each, int64 [n, 2]; None where one cannot be read so."""
    import numpy as np

    codes = [_code(tensor) for tensor in tensors]
    if None in codes:
        return None
    pairs = [(t.data_ptr(), code) for t, code in zip(tensors, codes, strict=True)]
    return np.array(pairs, np.int64)


def _code(tensor: "torch.Tensor") -> int | None:
    if tensor.device.type != "cpu" or not tensor.is_contiguous():
        return None
    return _codes().get(tensor.dtype)


@cache
def _codes() -> "dict[torch.dtype, int]":
    """As in `tiles`."""
    import torch

    return {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
