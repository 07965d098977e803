"""Products for one token: every weight is read once, by 16-byte loads, and summed in float32.

A product of a matrix with one vector has no reuse, so a tile of the matrix is as good as its bytes in flight. The
programs are as many as the device runs at once and take items in turn, so that a small k launches no empty ones and
a norm is computed once a program.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .common import normed, rounded, silu


@triton.jit
def project(x, norm, first, second, third, out, slots, first_rows, second_rows, third_rows, size, eps,
            NORM: tl.constexpr, ADD: tl.constexpr, BY_SLOT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """out = [first; second; third] @ x, three matrices of `size` columns that stay where they are.

    NORM: x is the float32 stream and is normed first. ADD: out is the float32 stream and is added to.
    BY_SLOT: out is the row of the token's slot.
    """
    dtype: tl.constexpr = first.dtype.element_ty
    columns = tl.arange(0, COLUMNS)
    inside = columns < size
    h = tl.load(x + columns, mask=inside, other=0.0).to(tl.float32)
    if NORM:
        h = normed(h, tl.load(norm + columns, mask=inside, other=0.0), size, eps, dtype)
    total = first_rows + second_rows + third_rows
    base = out
    if BY_SLOT:
        base = out + tl.load(slots).to(tl.int64) * total
    for item in range(tl.program_id(0), tl.cdiv(total, ROWS), tl.num_programs(0)):
        start = item * ROWS
        matrix, begin, end = first, start, first_rows
        if start >= first_rows + second_rows:
            matrix, begin, end = third, start - first_rows - second_rows, third_rows
        elif start >= first_rows:
            matrix, begin, end = second, start - first_rows, second_rows
        rows = begin + tl.arange(0, ROWS)
        w = tl.load(matrix + rows[:, None] * size + columns[None, :], mask=(rows < end)[:, None] & inside[None, :],
                    other=0.0, eviction_policy="evict_first")
        y = rounded(tl.sum(w.to(tl.float32) * h[None, :], 1), dtype)
        place = base + start + tl.arange(0, ROWS)
        if ADD:
            y += tl.load(place, mask=rows < end, other=0.0)
        tl.store(place, y.to(out.dtype.element_ty), mask=rows < end)


@triton.jit
def gate_up(x, norm, weights, touched, count, weight_of, inner, size, inner_size, eps,
            ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """inner[i] = routing weight * silu(gate @ norm(x)) * (up @ norm(x)) of the i-th touched expert."""
    dtype: tl.constexpr = weights.dtype.element_ty
    columns = tl.arange(0, COLUMNS)
    inside = columns < size
    h = normed(tl.load(x + columns, mask=inside, other=0.0),
               tl.load(norm + columns, mask=inside, other=0.0), size, eps, dtype)
    tiles = tl.cdiv(inner_size, ROWS)
    for item in range(tl.program_id(0), tl.load(count) * tiles, tl.num_programs(0)):
        place = item // tiles
        expert = tl.load(touched + place).to(tl.int64)
        rows = (item % tiles) * ROWS + tl.arange(0, ROWS)
        mask = (rows < inner_size)[:, None] & inside[None, :]
        at = weights + expert * (2 * inner_size * size) + rows[:, None] * size + columns[None, :]
        gate = tl.load(at, mask=mask, other=0.0, eviction_policy="evict_first")
        up = tl.load(at + inner_size * size, mask=mask, other=0.0, eviction_policy="evict_first")
        gate = rounded(tl.sum(gate.to(tl.float32) * h[None, :], 1), dtype)
        up = rounded(tl.sum(up.to(tl.float32) * h[None, :], 1), dtype)
        value = rounded(silu(gate), dtype) * up * tl.load(weight_of + expert)
        tl.store(inner + place * inner_size + rows, value.to(dtype), mask=rows < inner_size)


@triton.jit
def down(inner, weights, touched, count, x, size, inner_size,
         ROWS: tl.constexpr, COLUMNS: tl.constexpr, STAGES: tl.constexpr):
    """x += sum over touched experts of down @ inner: a program owns its output rows, so nothing is added atomically."""
    columns = tl.arange(0, COLUMNS)
    inside = columns < inner_size
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    mask = (rows < size)[:, None] & inside[None, :]
    sums = tl.zeros([ROWS, COLUMNS], tl.float32)
    for place in tl.range(0, tl.load(count), num_stages=STAGES):
        expert = tl.load(touched + place).to(tl.int64)
        v = tl.load(inner + place * inner_size + columns, mask=inside, other=0.0).to(tl.float32)
        w = tl.load(weights + expert * (size * inner_size) + rows[:, None] * inner_size + columns[None, :],
                    mask=mask, other=0.0, eviction_policy="evict_first")
        sums += w.to(tl.float32) * v[None, :]
    stream = tl.load(x + rows, mask=rows < size, other=0.0)
    tl.store(x + rows, stream + tl.sum(sums, 1), mask=rows < size)
