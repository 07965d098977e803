"""Products in vector registers, written in LLVM's own language: Numba's loops alone do not keep sums in registers.

Weights stay where PyTorch has them and are reached by address. The order of every sum is written down here, so a
row's or a token's result has the same bits whoever else is computed beside it.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

written_out: Any = intrinsic  # a function of its operands' types that writes the call's code; called with the operands

LANES = 16  # floats a vector: one register with AVX-512, two with AVX2
TILE = 4    # outputs computed side by side, so that what is loaded is used more than once

I32, I64, F32 = ir.IntType(32), ir.IntType(64), ir.FloatType()
VECTOR = ir.VectorType(F32, LANES)


@written_out
def address_of(typingctx: Any, array: Any) -> Any:
    """float32 array -> the address of its first element, int64."""
    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.ptrtoint(data, I64)
    return types.int64(array), build


@written_out
def pointer(typingctx: Any, address: Any) -> Any:
    """int64 address -> pointer to float32, for `numba.carray`."""
    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], F32.as_pointer())
    return types.CPointer(types.float32)(types.int64), build


@written_out
def power_of_two(typingctx: Any, shifted: Any) -> Any:
    """float32 n + 1.5 * 2**23 -> 2**n: n stands in the low bits, where the exponent is made of it."""
    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = builder.bitcast(arguments[0], I32)
        exponent = builder.add(builder.shl(bits, I32(23)), I32(0x3F800000))
        return builder.bitcast(exponent, F32)
    return types.float32(types.float32), build


@written_out
def dots(typingctx: Any, matrix: Any, x: Any, y: Any, rows: Any, width: Any) -> Any:
    """y[r] = sum over i of matrix[r, i] * x[i]: addresses of [rows, width], [width], [rows]; width a multiple of LANES.

    Sixteen partial sums a row, folded in halves.
    """
    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        matrix, x, y, rows, width = arguments
        whole = builder.mul(builder.sdiv(rows, I64(TILE)), I64(TILE))
        for start, stop, count in ((I64(0), whole, TILE), (whole, rows, 1)):
            with cgutils.for_range_slice(builder, start, stop, I64(count), I64) as (row, _):
                bases = [_at(builder, matrix, builder.mul(builder.add(row, I64(j)), width)) for j in range(count)]
                sums = _accumulate(builder, width, LANES, count, 1, lambda i, bases=bases: (
                    [_load(builder, _at(builder, x, i))], [_load(builder, _at(builder, base, i)) for base in bases]))
                for j, (total,) in enumerate(sums):
                    _store(builder, _fold(builder, total), _at(builder, y, builder.add(row, I64(j))))
        return context.get_dummy_value()
    return types.void(*[types.int64] * 5), build


@written_out
def product(typingctx: Any, w: Any, row_stride: Any, step_stride: Any, x: Any, x_stride: Any, y: Any, y_stride: Any,
            rows: Any, steps: Any, columns: Any) -> Any:
    """y[r, n] = sum over s of w[r, s] * x[s, n], one addition after the other in the order of s.

    w, x, y: addresses; w[r, s] lies at r * row_stride + s * step_stride floats, x[s, n] at s * x_stride + n,
    y[r, n] at r * y_stride + n. columns: a multiple of LANES.
    """
    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        w, row_stride, step_stride, x, x_stride, y, y_stride, rows, steps, columns = arguments
        whole = builder.mul(builder.sdiv(rows, I64(TILE)), I64(TILE))
        for start, stop, count in ((I64(0), whole, TILE), (whole, rows, 1)):
            with cgutils.for_range_slice(builder, start, stop, I64(count), I64) as (row, _), \
                    cgutils.for_range_slice(builder, I64(0), columns, I64(LANES), I64) as (column, _):
                bases = [_at(builder, w, builder.mul(builder.add(row, I64(j)), row_stride)) for j in range(count)]
                sums = _accumulate(builder, steps, 1, count, 1, lambda s, bases=bases, column=column: (
                    [_load(builder, _at(builder, x, builder.add(builder.mul(s, x_stride), column)))],
                    [_spread(builder, _at(builder, base, builder.mul(s, step_stride))) for base in bases]))
                for j, (total,) in enumerate(sums):
                    place = builder.add(builder.mul(builder.add(row, I64(j)), y_stride), column)
                    _store(builder, total, _at(builder, y, place))
        return context.get_dummy_value()
    return types.void(*[types.int64] * 10), build


def _at(builder: Any, address: Any, index: Any) -> Any:
    """The address `index` floats further."""
    return builder.add(address, builder.shl(index, I64(2)))


def _load(builder: Any, address: Any) -> Any:
    return builder.load(builder.inttoptr(address, VECTOR.as_pointer()), align=4)


def _store(builder: Any, value: Any, address: Any) -> None:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=4)


def _spread(builder: Any, address: Any) -> Any:
    """One float in every lane."""
    value = builder.load(builder.inttoptr(address, F32.as_pointer()), align=4)
    alone = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), value, I32(0))
    return builder.shuffle_vector(alone, alone, ir.Constant(ir.VectorType(I32, LANES), [0] * LANES))


def _accumulate(builder: Any, stop: Any, stride: int, rows: int, columns: int, operands: Any) -> list[list[Any]]:
    """sums[row][column] of left[row] * right[column] over i = 0, stride, ... below `stop`, kept in registers.

    operands(i) -> (right, left). `stop` is at least 1.
    """
    multiply_add = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(VECTOR, [VECTOR] * 3), f"llvm.fmuladd.v{LANES}f32")
    before = builder.block
    body, after = builder.append_basic_block("sum"), builder.append_basic_block("summed")
    builder.branch(body)
    builder.position_at_end(body)
    index = builder.phi(I64)
    sums = [[builder.phi(VECTOR) for _ in range(columns)] for _ in range(rows)]
    right, left = operands(index)
    following = [[builder.call(multiply_add, [left[r], right[c], sums[r][c]]) for c in range(columns)]
                 for r in range(rows)]
    index.add_incoming(I64(0), before)
    next_index = builder.add(index, I64(stride))
    index.add_incoming(next_index, body)
    for r in range(rows):
        for c in range(columns):
            sums[r][c].add_incoming(ir.Constant(VECTOR, [0.0] * LANES), before)
            sums[r][c].add_incoming(following[r][c], body)
    builder.cbranch(builder.icmp_signed("<", next_index, stop), body, after)
    builder.position_at_end(after)
    return following


def _fold(builder: Any, vector: Any) -> Any:
    """The sum of a vector's lanes: its halves added until one is left."""
    size = LANES
    while size > 1:
        half = size // 2
        first, second = (builder.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(I32, half), list(part)))
                         for part in (range(half), range(half, size)))
        vector, size = builder.fadd(first, second), half
    return builder.extract_element(vector, I32(0))
