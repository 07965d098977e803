"""Products for a batch: tensor-core tiles over all rows of the batch, padded to 16.

Decoding a few rows is bound by reading the weights, so the multiplications of rows that did not choose an expert cost
nothing: a tile computes every row of a touched expert, with routing weight 0 for those that did not. A row's sums run
in an order that does not depend on its neighbours.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .common import last_to_arrive, normed, part_of, rounded, scales, scales_of, silu, wait_for_previous, widened


@triton.jit
def norm_rows(x, norm, out, size, eps, COLUMNS: tl.constexpr, OVERLAP: tl.constexpr):
    """out[row] = norm(x[row]), one program a row."""
    row = tl.program_id(0)
    wait_for_previous(OVERLAP)
    columns = tl.arange(0, COLUMNS)
    inside = columns < size
    h = tl.load(x + row * size + columns, mask=inside, other=0.0)
    dtype: tl.constexpr = out.dtype.element_ty
    h = normed(h, tl.load(norm + columns, mask=inside, other=0.0), size, eps, dtype)
    tl.store(out + row * size + columns, h.to(dtype), mask=inside)


@triton.jit
def project(x, first, second, third, first_scale, second_scale, third_scale, out, slots, batch, first_rows,
            second_rows, third_rows, size, ADD: tl.constexpr, BY_SLOT: tl.constexpr, BATCH: tl.constexpr,
            ROWS: tl.constexpr, COLUMNS: tl.constexpr, OVERLAP: tl.constexpr):
    """out[b] = [first; second; third] @ x[b]; ADD, BY_SLOT and scales as for one row."""
    dtype: tl.constexpr = x.dtype.element_ty
    total = first_rows + second_rows + third_rows
    start = tl.program_id(0) * ROWS
    matrix, begin, end = part_of(first, second, third, first_rows, second_rows, third_rows, start)
    scale = scales_of(first_scale, second_scale, third_scale, first_rows, second_rows, third_rows, start, ROWS)
    b = tl.arange(0, BATCH)
    rows = begin + tl.arange(0, ROWS)
    sums = tl.zeros([BATCH, ROWS], tl.float32)
    wait_for_previous(OVERLAP)
    for offset in range(0, size, COLUMNS):
        columns = offset + tl.arange(0, COLUMNS)
        h = tl.load(x + b[:, None] * size + columns[None, :],
                    mask=(b < batch)[:, None] & (columns < size)[None, :], other=0.0)
        w = tl.load(matrix + rows[None, :] * size + columns[:, None],
                    mask=(rows < end)[None, :] & (columns < size)[:, None], other=0.0, eviction_policy="evict_first")
        sums = tl.dot(h, widened(w, dtype), sums, input_precision="ieee")
    y = rounded(sums * scale[None, :], dtype)
    slot = tl.load(slots + b, mask=b < batch, other=-1)
    at = b
    if BY_SLOT:
        at = slot
    place = out + at.to(tl.int64)[:, None] * total + (start + tl.arange(0, ROWS))[None, :]
    mask = (slot >= 0)[:, None] & (rows < end)[None, :]
    if ADD:
        y += tl.load(place, mask=mask, other=0.0)
    tl.store(place, y.to(out.dtype.element_ty), mask=mask)


@triton.jit
def gate_up(x, weights, scale, touched, count, weight_of, inner, batch, size, inner_size, num_experts,
            BATCH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, OVERLAP: tl.constexpr):
    """inner[i, b] = routing weight * silu(gate @ x[b]) * (up @ x[b]) of the i-th touched expert; x is normed."""
    dtype: tl.constexpr = x.dtype.element_ty
    b = tl.arange(0, BATCH)
    tiles = tl.cdiv(inner_size, ROWS)
    wait_for_previous(OVERLAP)
    for item in range(tl.program_id(0), tl.load(count) * tiles, tl.num_programs(0)):
        place = item // tiles
        expert = tl.load(touched + place).to(tl.int64)
        rows = (item % tiles) * ROWS + tl.arange(0, ROWS)
        at = weights + expert * (2 * inner_size * size) + rows[None, :] * size
        scale_at = expert * (2 * inner_size) + rows
        gate_scale = scales(scale, scale_at, rows < inner_size)
        up_scale = scales(scale, scale_at + inner_size, rows < inner_size)
        gate = tl.zeros([BATCH, ROWS], tl.float32)
        up = tl.zeros([BATCH, ROWS], tl.float32)
        for offset in range(0, size, COLUMNS):
            columns = offset + tl.arange(0, COLUMNS)
            h = tl.load(x + b[:, None] * size + columns[None, :],
                        mask=(b < batch)[:, None] & (columns < size)[None, :], other=0.0)
            mask = (rows < inner_size)[None, :] & (columns < size)[:, None]
            w = tl.load(at + columns[:, None], mask=mask, other=0.0, eviction_policy="evict_first")
            gate = tl.dot(h, widened(w, dtype), gate, input_precision="ieee")
            w = tl.load(at + inner_size * size + columns[:, None], mask=mask, other=0.0, eviction_policy="evict_first")
            up = tl.dot(h, widened(w, dtype), up, input_precision="ieee")
        weight = tl.load(weight_of + b * num_experts + expert, mask=b < batch, other=0.0)[:, None]
        value = rounded(silu(rounded(gate * gate_scale[None, :], dtype)), dtype)
        value = value * rounded(up * up_scale[None, :], dtype) * weight
        value = tl.where(weight != 0, value, 0.0)  # a row that did not choose it must not bring in its inf or nan
        tl.store(inner + (place * batch + b)[:, None] * inner_size + rows[None, :], value.to(dtype),
                 mask=(b < batch)[:, None] & (rows < inner_size)[None, :])


@triton.jit
def down(inner, weights, scale, touched, count, slots, x, parts, arrived, batch, size, inner_size,
         BATCH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, OVERLAP: tl.constexpr):
    """x[b] += sum over touched experts of down @ inner[., b].

    A program sums over all experts, for its output rows and its share of their columns: how a row's sum is split does
    not depend on which experts its neighbours chose. The last of the shares adds up parts [shares, batch, size].
    Of int8 weights each expert's product is scaled before it joins the sum.
    """
    share, shares = tl.program_id(1), tl.num_programs(1)
    b = tl.arange(0, BATCH)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = share * COLUMNS + tl.arange(0, COLUMNS)
    sums = tl.zeros([BATCH, ROWS], tl.float32)
    wait_for_previous(OVERLAP)
    for place in range(0, tl.load(count)):
        expert = tl.load(touched + place).to(tl.int64)
        h = tl.load(inner + (place * batch + b)[:, None] * inner_size + columns[None, :],
                    mask=(b < batch)[:, None] & (columns < inner_size)[None, :], other=0.0)
        w = tl.load(weights + expert * (size * inner_size) + rows[None, :] * inner_size + columns[:, None],
                    mask=(rows < size)[None, :] & (columns < inner_size)[:, None], other=0.0,
                    eviction_policy="evict_first")
        if scale is None:
            sums = tl.dot(h, w, sums, input_precision="ieee")
        else:
            own = scales(scale, expert * size + rows, rows < size)
            sums += tl.dot(h, widened(w, h.dtype), input_precision="ieee") * own[None, :]
    slot = tl.load(slots + b, mask=b < batch, other=-1)
    mask = (slot >= 0)[:, None] & (rows < size)[None, :]
    at = b[:, None] * size + rows[None, :]
    tl.store(parts + share * batch * size + at, sums, mask=mask)
    if last_to_arrive(arrived + tl.program_id(0), shares - 1):
        total = tl.load(x + at, mask=mask, other=0.0)
        for s in range(0, shares):
            total += tl.load(parts + s * batch * size + at, mask=mask, other=0.0, cache_modifier=".cg")
        tl.store(x + at, total, mask=mask)
