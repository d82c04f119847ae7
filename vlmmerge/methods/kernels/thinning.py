"""Keeps over tiles: what `keeping` says, in place.

`whole`: int64 [4] and `numbers`: float32 [8] are one keep's row of what `packing` makes. `first` is
the number of the tile's first element in the whole tensor.
"""

import numpy as np

from vlmmerge.methods.kernels import bits
from vlmmerge.methods.kernels.caching import inner

ALL, TOP, BAND, DROP, RANK = range(5)

_ZERO, _ONE = np.float32(0), np.float32(1)
_LOW = np.int64(0xFFFFFFFF)


@inner
def thin(x, n, first, whole, numbers):
    """X = keep(x)."""
    kind = whole[0]
    if kind == TOP:
        # Up to its last element a cut is `>=`, which is `>` of the next number below.
        split = min(max(whole[1] + 1 - first, 0), n)
        _top(x, 0, split, numbers[3])
        _top(x, split, n, numbers[2])
    elif kind == BAND:
        a = min(max(whole[1] + 1 - first, 0), n)
        b = min(max(whole[2] + 1 - first, 0), n)
        _band(x, 0, min(a, b), numbers[3], numbers[5])
        if a < b:
            _band(x, a, b, numbers[2], numbers[5])
        else:
            _band(x, b, a, numbers[3], numbers[4])
        _band(x, max(a, b), n, numbers[2], numbers[4])
    elif kind == DROP:
        done = 0
        while done < n:  # once, but where the low half of the index wraps
            index = first + done
            last = min(n, done + (_LOW + 1 - (index & _LOW)))
            second = ((index >> 32) * 0x9E3779B1 + whole[2]) & _LOW
            _drop(x, done, last, first, np.uint32(whole[1]), np.uint32(second), numbers)
            done = last


@inner
def _top(x, start, stop, least):
    for i in range(start, stop):
        x[i] = x[i] * (_ONE if abs(x[i]) > least else _ZERO)


@inner
def _band(x, start, stop, least, most):
    for i in range(start, stop):
        size = abs(x[i])
        x[i] = x[i] * (_ONE if (size > least) & (not size > most) else _ZERO)


@inner
def _drop(x, start, stop, first, low, high, numbers):
    density, scale = numbers[2], numbers[3]
    for i in range(start, stop):
        drawn = bits.draw(first + i, low, high)
        x[i] = (x[i] * scale) * (_ONE if drawn < density else _ZERO)
