"""What numba has no words for: memory by its address, 16-bit floats, 32-bit arithmetic.

Each is a few LLVM instructions on one number, without a branch, so that loops over them vectorise.
16-bit floats are their bits, as integers.
"""

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

_I16, _I32, _F32 = ir.IntType(16), ir.IntType(32), ir.FloatType()


def _c(value: int) -> ir.Constant:
    return ir.Constant(_I32, value & 0xFFFFFFFF)


def _pointer(element: Any) -> Any:
    def make(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(element)(types.int64), make


@intrinsic
def halves_at(typing: Any, address: Any) -> Any:
    """A pointer to 16-bit numbers."""
    return _pointer(types.uint16)


@intrinsic
def floats_at(typing: Any, address: Any) -> Any:
    """A pointer to float32 numbers."""
    return _pointer(types.float32)


@intrinsic
def bits(typing: Any, number: Any) -> Any:
    """The 32 bits of a float32."""

    def make(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], _I32)

    return types.uint32(types.float32), make


@intrinsic
def larger(typing: Any, a: Any, b: Any) -> Any:
    """The larger of two 32-bit integers."""

    def make(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(builder.icmp_unsigned(">", *args), *args)

    return types.uint32(types.uint32, types.uint32), make


@intrinsic
def size_bits(typing: Any, number: Any) -> Any:
    """The bits of |number|, float32: as integers they are in the order of the magnitudes."""

    def make(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.and_(builder.bitcast(args[0], _I32), _c(0x7FFFFFFF))

    return types.uint32(types.float32), make


@intrinsic
def from_bfloat16(typing: Any, half: Any) -> Any:
    def make(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return b.bitcast(b.shl(b.zext(args[0], _I32), _c(16)), _F32)

    return types.float32(types.uint16), make


@intrinsic
def to_bfloat16(typing: Any, number: Any) -> Any:
    """The nearest bfloat16, of two equally near the even one; NaN stays NaN."""

    def make(context: Any, b: Any, signature: Any, args: Any) -> Any:
        word = b.bitcast(args[0], _I32)
        odd = b.and_(b.lshr(word, _c(16)), _c(1))
        rounded = b.add(b.add(word, _c(0x7FFF)), odd)
        nan = b.fcmp_unordered("uno", args[0], args[0])
        quiet = b.or_(word, _c(0x400000))
        return b.trunc(b.lshr(b.select(nan, quiet, rounded), _c(16)), _I16)

    return types.uint16(types.float32), make


@intrinsic
def from_float16(typing: Any, half: Any) -> Any:
    def make(context: Any, b: Any, signature: Any, args: Any) -> Any:
        word = b.zext(args[0], _I32)
        size = b.and_(word, _c(0x7FFF))
        # Exponents differ by 112. As a product this is exact below the smallest normal one too.
        number = b.fmul(b.bitcast(b.shl(size, _c(13)), _F32), ir.Constant(_F32, 2.0**112))
        special = b.or_(b.shl(size, _c(13)), _c(0x7F800000))
        found = b.select(b.icmp_unsigned(">=", size, _c(0x7C00)), special, b.bitcast(number, _I32))
        sign = b.shl(b.and_(word, _c(0x8000)), _c(16))
        return b.bitcast(b.or_(found, sign), _F32)

    return types.float32(types.uint16), make


@intrinsic
def to_float16(typing: Any, number: Any) -> Any:
    """The nearest float16, of two equally near the even one; NaN stays NaN."""

    def make(context: Any, b: Any, signature: Any, args: Any) -> Any:
        word = b.bitcast(args[0], _I32)
        size = b.and_(word, _c(0x7FFFFFFF))
        odd = b.and_(b.lshr(size, _c(13)), _c(1))
        normal = b.lshr(b.add(b.add(size, _c(0xFFF - (112 << 23))), odd), _c(13))
        # Below 2^-14 float16 counts in steps of 2^-24, as float32 does from 0.5 on: adding rounds.
        half = ir.Constant(_F32, 0.5)
        small = b.sub(b.bitcast(b.fadd(b.bitcast(size, _F32), half), _I32), _c(0x3F000000))
        found = b.select(b.icmp_unsigned("<", size, _c(113 << 23)), small, normal)
        found = b.select(b.icmp_unsigned(">=", size, _c(0x477FF000)), _c(0x7C00), found)
        found = b.select(b.icmp_unsigned(">", size, _c(0x7F800000)), _c(0x7E00), found)
        sign = b.and_(b.lshr(word, _c(16)), _c(0x8000))
        return b.trunc(b.or_(found, sign), _I16)

    return types.uint16(types.float32), make


@intrinsic
def half_size(typing: Any, half: Any) -> Any:
    """The bits of a 16-bit float's magnitude, as 32-bit integer."""

    def make(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return b.and_(b.zext(args[0], _I32), _c(0x7FFF))

    return types.uint32(types.uint16), make


@intrinsic
def draw(typing: Any, index: Any, first: Any, second: Any) -> Any:
    """Element `index` (of which the low 32 bits count) of the stream that `masks` describes.

    `first` and `second` are its key; into `second` the high half of the index has gone already.
    """

    def make(context: Any, b: Any, signature: Any, args: Any) -> Any:
        word = _mix(b, b.xor(b.trunc(args[0], _I32), args[1]))
        word = _mix(b, b.xor(word, args[2]))
        number = b.sitofp(b.lshr(word, _c(8)), _F32)
        return b.fmul(number, ir.Constant(_F32, 2.0**-24))

    return types.float32(types.int64, types.uint32, types.uint32), make


def _mix(b: Any, word: Any) -> Any:
    word = b.mul(b.xor(word, b.lshr(word, _c(16))), _c(0x85EBCA6B))
    word = b.mul(b.xor(word, b.lshr(word, _c(13))), _c(0xC2B2AE35))
    return b.xor(word, b.lshr(word, _c(16)))
