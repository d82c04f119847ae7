"""Magnitudes of a task vector, counted in one pass over memory."""

import numpy as np

from vlmmerge.methods.kernels import bits, tiles
from vlmmerge.methods.kernels.caching import entry

_TILE = 2048


@entry
def count(places, n, upper, counts):
    """Add to `counts` how many of `n` magnitudes |theta - base| there are by their bits.

    `places`: int64 [2, 2], address and code of theta and its base. By the upper 16 bits, or by the
    lower 16 of those whose upper ones are `upper` (from 0 on).
    """
    work = np.empty((2, _TILE), np.float32)
    base, x = work[0], work[1]
    for at in range(0, n, _TILE):
        m = min(_TILE, n - at)
        tiles.load(places[1, 0], places[1, 1], at, m, base)
        tiles.load_delta(places[0, 0], places[0, 1], at, m, base, x)
        if upper < 0:
            for i in range(m):
                counts[bits.size_bits(x[i]) >> np.uint32(16)] += 1
        else:
            wanted = np.uint32(upper)
            for i in range(m):
                word = bits.size_bits(x[i])
                if word >> np.uint32(16) == wanted:
                    counts[word & np.uint32(0xFFFF)] += 1


@entry
def count_equal(places, n, threshold):
    """How many of `n` magnitudes equal `threshold`."""
    work = np.empty((2, _TILE), np.float32)
    base, x = work[0], work[1]
    found = 0
    for at in range(0, n, _TILE):
        m = min(_TILE, n - at)
        tiles.load(places[1, 0], places[1, 1], at, m, base)
        tiles.load_delta(places[0, 0], places[0, 1], at, m, base, x)
        here = np.uint32(0)
        for i in range(m):
            here += np.uint32(abs(x[i]) == threshold)
        found += np.int64(here)
    return found
