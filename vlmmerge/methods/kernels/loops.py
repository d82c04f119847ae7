"""Forms over one span, tile by tile: what `forms` says, in one pass over memory.

Every product and every sum is rounded to float32 in the order that `forms` has them: results equal
`plain`'s bit for bit. There is one signature for any number of sources.
"""

import numpy as np

from vlmmerge.methods.kernels import tiles
from vlmmerge.methods.kernels.caching import entry, inner
from vlmmerge.methods.kernels.thinning import thin

BLEND, BASE, ADD, ELECT = range(4)
TILE = 1024  # with a few sources all tiles lie in 32 kB

_ZERO, _ONE = np.float32(0), np.float32(1)


@entry
def merge(kind, places, out, out_code, keeps, numbers, normalize, start, n):
    """Merge `n` elements, of which the first is number `start`; whether all written are finite.

    `places`: int64 [2k + 1, 2], address and code of each source, of the base of each, of the base
    (`BLEND`: of each source). `keeps`: int64 [k, 4]; `numbers`: float32 [k + 1, 8], of each source
    its weight, its vote and its keep's numbers, in the last row the scale.
    """
    k = len(keeps)
    work = np.empty((k + 4, TILE), np.float32)
    base, own, result = work[k], work[k + 1], work[k + 2]
    finite = True
    for at in range(0, n, TILE):
        m = min(TILE, n - at)
        if kind == BLEND:
            _blend(places, at, m, numbers, result)
        else:
            tiles.load(places[2 * k, 0], places[2 * k, 1], at, m, base)
            if kind == BASE:
                finite &= tiles.store(base, m, out, out_code, at)
                continue
            for i in range(k):
                _thinned(places, i, k, start, at, m, base, own, keeps[i], numbers[i], work[i])
            if kind == ADD:
                _add(work, base, k, m, numbers, result)
            elif k == 2:
                _elect_two(work[0], work[1], base, m, numbers, normalize, result)
            else:
                _elect(work, base, own, k, m, numbers, normalize, result)
        finite &= tiles.store(result, m, out, out_code, at)
    return finite


@inner
def _blend(places, at, m, numbers, result):
    tiles.load(places[0, 0], places[0, 1], at, m, result)
    weight = numbers[0, 0]
    if weight != _ONE:
        for i in range(m):
            result[i] *= weight
    for source in range(1, len(places)):
        tiles.add_scaled(places[source, 0], places[source, 1], at, m, numbers[source, 0], result)


@inner
def _thinned(places, i, k, start, at, m, base, own, keep, numbers, x):
    """X = keep_i(theta_i - its base)."""
    theirs = base
    if places[k + i, 0] != places[2 * k, 0]:
        tiles.load(places[k + i, 0], places[k + i, 1], at, m, own)
        theirs = own
    tiles.load_delta(places[i, 0], places[i, 1], at, m, theirs, x)
    thin(x, m, start + at, keep, numbers)


@inner
def _add(work, base, k, m, numbers, result):
    x, weight = work[0], numbers[0, 0]
    for i in range(m):
        result[i] = x[i] * weight
    for source in range(1, k):
        x, weight = work[source], numbers[source, 0]
        for i in range(m):
            result[i] += x[i] * weight
    scale = numbers[k, 0]
    for i in range(m):
        result[i] = base[i] + result[i] * scale


@inner
def _elect_two(x, y, base, m, numbers, normalize, result):
    w, v, scale = numbers[0, 0], numbers[0, 1], numbers[2, 0]
    u, t = numbers[1, 0], numbers[1, 1]
    if normalize:
        for i in range(m):
            ballot, other = x[i] * v, y[i] * t
            sign = _ONE if ballot + other >= _ZERO else -_ONE
            a = _ONE if ballot * sign > _ZERO else _ZERO
            b = _ONE if other * sign > _ZERO else _ZERO
            total = (_ZERO + (x[i] * w) * a) + (y[i] * u) * b
            divisor = w * a + u * b
            mean = total / (_ONE if divisor == _ZERO else divisor)
            result[i] = base[i] + mean * scale
    else:
        for i in range(m):
            ballot, other = x[i] * v, y[i] * t
            sign = _ONE if ballot + other >= _ZERO else -_ONE
            a = _ONE if ballot * sign > _ZERO else _ZERO
            b = _ONE if other * sign > _ZERO else _ZERO
            total = (_ZERO + (x[i] * w) * a) + (y[i] * u) * b
            result[i] = base[i] + total * scale


@inner
def _elect(work, base, sign, k, m, numbers, normalize, result):
    """`sign` is a tile to work in."""
    x, vote = work[0], numbers[0, 1]
    for i in range(m):
        sign[i] = x[i] * vote
    for source in range(1, k):
        x, vote = work[source], numbers[source, 1]
        for i in range(m):
            sign[i] += x[i] * vote
    divisor = work[k + 3]
    for i in range(m):
        sign[i] = _ONE if sign[i] >= _ZERO else -_ONE
        result[i] = _ZERO
        divisor[i] = _ZERO
    for source in range(k):
        x, weight, vote = work[source], numbers[source, 0], numbers[source, 1]
        for i in range(m):
            agrees = _ONE if (x[i] * vote) * sign[i] > _ZERO else _ZERO
            result[i] += (x[i] * weight) * agrees
            divisor[i] += weight * agrees
    scale = numbers[k, 0]
    if normalize:
        for i in range(m):
            mean = result[i] / (_ONE if divisor[i] == _ZERO else divisor[i])
            result[i] = base[i] + mean * scale
    else:
        for i in range(m):
            result[i] = base[i] + result[i] * scale
