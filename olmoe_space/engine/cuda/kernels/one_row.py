"""Products for one token: every weight is read once, by 16-byte loads, and summed in float32.

Weights are of the model's dtype, or int8 with a float32 scale a row (else `scale` is None). Four int8 come as one
int32: those on their way stay as they are, where bytes would be taken apart on arrival, and so waited for.

A product of a matrix with one vector has no reuse, so a tile of the matrix is as good as its bytes in flight. The
programs are as many as the device runs at once and take items in turn, so that a small k launches no empty ones and
a norm is computed once a program.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .common import from_byte, normed, part_of, rounded, scales, scales_of, silu, wait_for_previous


@triton.jit
def numbers(w):
    """Weights [ROWS, n] in float32; of int8, [ROWS, 4n]: the bytes of each int32 in order, all within one thread."""
    if w.dtype == tl.int32:
        even = tl.join(from_byte(w), from_byte(w >> 16))
        odd = tl.join(from_byte(w >> 8), from_byte(w >> 24))
        w = tl.join(even, odd).reshape(w.shape[0], 4 * w.shape[1])
    return w.to(tl.float32)


@triton.jit
def matrix_rows(first, second, third, first_rows, second_rows, third_rows, start, columns, size,
                ROWS: tl.constexpr):
    """Rows start, start + 1, ... of [first; second; third], in whichever of them those lie; 0 past the end.

    size, columns: counted in what is loaded at once, a weight or four.
    """
    matrix, begin, end = part_of(first, second, third, first_rows, second_rows, third_rows, start)
    rows = begin + tl.arange(0, ROWS)
    return tl.load(matrix + rows[:, None] * size + columns[None, :],
                   mask=(rows < end)[:, None] & (columns < size)[None, :], other=0.0, eviction_policy="evict_first")


@triton.jit
def project(x, norm, first, second, third, first_scale, second_scale, third_scale, out, slots, first_rows,
            second_rows, third_rows, size, eps, NORM: tl.constexpr, ADD: tl.constexpr, BY_SLOT: tl.constexpr,
            ROWS: tl.constexpr, COLUMNS: tl.constexpr, OVERLAP: tl.constexpr):
    """out = [first; second; third] @ x, three matrices of `size` columns that stay where they are.

    NORM: x is the float32 stream and is normed first. ADD: out is the float32 stream and is added to.
    BY_SLOT: out is the row of the token's slot. The next weights are on their way while these are summed.
    """
    dtype: tl.constexpr = norm.dtype.element_ty
    columns = tl.arange(0, COLUMNS)
    total = first_rows + second_rows + third_rows
    PACK: tl.constexpr = 4 if first.dtype.element_ty == tl.int32 else 1
    packs = tl.arange(0, COLUMNS // PACK)
    w = matrix_rows(first, second, third, first_rows, second_rows, third_rows, tl.program_id(0) * ROWS, packs,
                    size // PACK, ROWS)
    scale = scales_of(first_scale, second_scale, third_scale, first_rows, second_rows, third_rows,
                      tl.program_id(0) * ROWS, ROWS)
    if NORM:
        norm_weight = tl.load(norm + columns, mask=columns < size, other=0.0)
    wait_for_previous(OVERLAP)
    h = tl.load(x + columns, mask=columns < size, other=0.0).to(tl.float32)
    if NORM:
        h = normed(h, norm_weight, size, eps, dtype)
    base = out
    if BY_SLOT:
        slot = tl.load(slots)
        if slot < 0:
            return
        base = out + slot.to(tl.int64) * total
    for start in range(tl.program_id(0) * ROWS, total, tl.num_programs(0) * ROWS):
        coming = matrix_rows(first, second, third, first_rows, second_rows, third_rows,
                             start + tl.num_programs(0) * ROWS, packs, size // PACK, ROWS)
        coming_scale = scales_of(first_scale, second_scale, third_scale, first_rows, second_rows, third_rows,
                                 start + tl.num_programs(0) * ROWS, ROWS)
        y = rounded(tl.sum(numbers(w) * h[None, :], 1) * scale, dtype)
        rows = start + tl.arange(0, ROWS)
        if ADD:
            y += tl.load(base + rows, mask=rows < total, other=0.0)
        tl.store(base + rows, y.to(out.dtype.element_ty), mask=rows < total)
        w = coming
        scale = coming_scale


@triton.jit
def expert_rows(weights, scale, touched, item, items, tiles, columns, size, inner_size, ROWS: tl.constexpr):
    """The gate's and the up's rows of an item, a tile of an expert's outputs, and their scales; 0 past the last item.

    `touched` is long enough for any item asked for, so that its load waits for no count.
    """
    expert = tl.load(touched + item // tiles).to(tl.int64)
    rows = (item % tiles) * ROWS + tl.arange(0, ROWS)
    mask = (rows < inner_size)[:, None] & (columns < size)[None, :] & (item < items)
    at = weights + expert * (2 * inner_size * size) + rows[:, None] * size + columns[None, :]
    gate = tl.load(at, mask=mask, other=0.0, eviction_policy="evict_first")
    up = tl.load(at + inner_size * size, mask=mask, other=0.0, eviction_policy="evict_first")
    scale_at, inside = expert * (2 * inner_size) + rows, (rows < inner_size) & (item < items)
    return gate, up, scales(scale, scale_at, inside), scales(scale, scale_at + inner_size, inside), expert


@triton.jit
def gate_up(x, norm, weights, scale, touched, count, weight_of, inner, size, inner_size, eps,
            ROWS: tl.constexpr, COLUMNS: tl.constexpr, OVERLAP: tl.constexpr):
    """inner[i] = routing weight * silu(gate @ norm(x)) * (up @ norm(x)) of the i-th touched expert."""
    dtype: tl.constexpr = norm.dtype.element_ty
    columns = tl.arange(0, COLUMNS)
    inside = columns < size
    tiles = tl.cdiv(inner_size, ROWS)
    PACK: tl.constexpr = 4 if weights.dtype.element_ty == tl.int32 else 1
    packs = tl.arange(0, COLUMNS // PACK)
    norm_weight = tl.load(norm + columns, mask=inside, other=0.0)
    wait_for_previous(OVERLAP)
    stream = tl.load(x + columns, mask=inside, other=0.0)
    items = tl.load(count) * tiles
    first = tl.program_id(0)
    gate, up, gate_scale, up_scale, expert = expert_rows(weights, scale, touched, first, items, tiles, packs,
                                                         size // PACK, inner_size, ROWS)
    h = normed(stream, norm_weight, size, eps, dtype)
    for item in range(first, items, tl.num_programs(0)):
        next_gate, next_up, next_gate_scale, next_up_scale, next_expert = expert_rows(
            weights, scale, touched, item + tl.num_programs(0), items, tiles, packs, size // PACK, inner_size, ROWS)
        g = rounded(tl.sum(numbers(gate) * h[None, :], 1) * gate_scale, dtype)
        u = rounded(tl.sum(numbers(up) * h[None, :], 1) * up_scale, dtype)
        value = rounded(silu(g), dtype) * u * tl.load(weight_of + expert)
        rows = (item % tiles) * ROWS + tl.arange(0, ROWS)
        tl.store(inner + (item // tiles) * inner_size + rows, value.to(dtype), mask=rows < inner_size)
        gate, up, gate_scale, up_scale, expert = next_gate, next_up, next_gate_scale, next_up_scale, next_expert


@triton.jit
def down_rows(weights, scale, touched, place, places, rows, columns, size, inner_size):
    """The output rows of the place-th touched expert's down matrix, and their scales; 0 past the last."""
    expert = tl.load(touched + place).to(tl.int64)
    mask = (rows < size)[:, None] & (columns < inner_size)[None, :] & (place < places)
    w = tl.load(weights + expert * (size * inner_size) + rows[:, None] * inner_size + columns[None, :], mask=mask,
                other=0.0, eviction_policy="evict_first")
    return w, scales(scale, expert * size + rows, (rows < size) & (place < places))


@triton.jit
def down(inner, weights, scale, touched, count, x, size, inner_size,
         ROWS: tl.constexpr, COLUMNS: tl.constexpr, OVERLAP: tl.constexpr):
    """x += sum over touched experts of down @ inner: a program owns its output rows, so nothing is added atomically.

    The list of experts is older than the launch before this one, so two experts' weights are on their way while that
    one still ends. Every expert has scales of its own, so int8 products are scaled before the experts' sums meet:
    TERMS of them at once, which one thread holds.
    """
    PACK: tl.constexpr = 4 if weights.dtype.element_ty == tl.int32 else 1
    TERMS: tl.constexpr = 16 if weights.dtype.element_ty == tl.int32 else 1
    columns, packs = tl.arange(0, COLUMNS), tl.arange(0, COLUMNS // PACK)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    places = tl.load(count)
    w, s = down_rows(weights, scale, touched, 0, places, rows, packs, size, inner_size // PACK)
    coming, coming_s = down_rows(weights, scale, touched, 1, places, rows, packs, size, inner_size // PACK)
    wait_for_previous(OVERLAP)
    sums = tl.zeros([ROWS, COLUMNS // TERMS], tl.float32)
    for place in range(0, places):
        v = tl.load(inner + place * inner_size + columns, mask=columns < inner_size, other=0.0).to(tl.float32)
        after, after_s = down_rows(weights, scale, touched, place + 2, places, rows, packs, size, inner_size // PACK)
        products = numbers(w) * v[None, :]
        if TERMS > 1:
            products = tl.sum(products.reshape(ROWS, COLUMNS // TERMS, TERMS), 2)
        sums += products * s[:, None]
        w, s = coming, coming_s
        coming, coming_s = after, after_s
    stream = tl.load(x + rows, mask=rows < size, other=0.0)
    tl.store(x + rows, stream + tl.sum(sums, 1), mask=rows < size)
