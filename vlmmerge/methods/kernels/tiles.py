"""Some thousand numbers at a time, which stay in the innermost cache, from and to memory.

`x`, `base`: float32 [at least n]. Memory is an address and the code of what lies there.
"""

import numpy as np
from numba import carray

from vlmmerge.methods.kernels import bits
from vlmmerge.methods.kernels.caching import inner

F32, BF16, F16 = 0, 1, 2
AS_F32 = 3  # on top of a 16-bit code, to write: rounded to it, but held in float32

_INFINITE = np.uint32(0x7F800000)


@inner
def load(address, code, at, n, x):
    """X = numbers `at` and after."""
    if code == BF16:
        halves = carray(bits.halves_at(address + 2 * at), n)
        for i in range(n):
            x[i] = bits.from_bfloat16(halves[i])
    elif code == F16:
        halves = carray(bits.halves_at(address + 2 * at), n)
        for i in range(n):
            x[i] = bits.from_float16(halves[i])
    else:
        floats = carray(bits.floats_at(address + 4 * at), n)
        for i in range(n):
            x[i] = floats[i]


@inner
def load_delta(address, code, at, n, base, x):
    """X = numbers `at` and after, less `base`."""
    if code == BF16:
        halves = carray(bits.halves_at(address + 2 * at), n)
        for i in range(n):
            x[i] = bits.from_bfloat16(halves[i]) - base[i]
    else:
        load(address, code, at, n, x)
        for i in range(n):
            x[i] -= base[i]


@inner
def add_scaled(address, code, at, n, weight, x):
    """X += weight times numbers `at` and after."""
    if code == BF16:
        halves = carray(bits.halves_at(address + 2 * at), n)
        for i in range(n):
            x[i] += bits.from_bfloat16(halves[i]) * weight
    elif code == F16:
        halves = carray(bits.halves_at(address + 2 * at), n)
        for i in range(n):
            x[i] += bits.from_float16(halves[i]) * weight
    else:
        floats = carray(bits.floats_at(address + 4 * at), n)
        for i in range(n):
            x[i] += floats[i] * weight


@inner
def store(x, n, address, code, at):
    """Round x and write it; whether all that was written is finite."""
    largest = np.uint32(0)
    if code == BF16:
        halves = carray(bits.halves_at(address + 2 * at), n)
        for i in range(n):
            half = bits.to_bfloat16(x[i])
            halves[i] = half
            largest = bits.larger(largest, bits.half_size(half))
        return largest < np.uint32(0x7F80)
    if code == F16:
        halves = carray(bits.halves_at(address + 2 * at), n)
        for i in range(n):
            half = bits.to_float16(x[i])
            halves[i] = half
            largest = bits.larger(largest, bits.half_size(half))
        return largest < np.uint32(0x7C00)
    floats = carray(bits.floats_at(address + 4 * at), n)
    if code == AS_F32 + BF16:
        for i in range(n):
            number = bits.from_bfloat16(bits.to_bfloat16(x[i]))
            floats[i] = number
            largest = bits.larger(largest, bits.size_bits(number))
    elif code == AS_F32 + F16:
        for i in range(n):
            number = bits.from_float16(bits.to_float16(x[i]))
            floats[i] = number
            largest = bits.larger(largest, bits.size_bits(number))
    else:
        for i in range(n):
            floats[i] = x[i]
            largest = bits.larger(largest, bits.size_bits(x[i]))
    return largest < _INFINITE
