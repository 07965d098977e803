"""A chunk of one prompt through a layer, in two halves: keys and values, then all the rest.

Tokens are columns here, side by side in a vector, each with its own sums in one fixed order: so a token's bits depend
neither on the tokens beside it nor on where the prompt is cut, and threads may take columns as they like.
Shapes: N tokens, P columns: N rounded up to whole vectors (what the spare ones compute is used nowhere); the others as
in `parts`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from .parts import (
    ATTENTION_NORM,
    DOWN,
    EXPERTS,
    EXPERTS_NORM,
    GATE_UP,
    HIDDEN,
    INNER,
    K_BIAS,
    K_NORM,
    K_PROJ,
    KEYS,
    O_BIAS,
    O_PROJ,
    ONE,
    Q_BIAS,
    Q_NORM,
    Q_PROJ,
    QUERIES,
    ROUTER,
    V_BIAS,
    V_PROJ,
    WIDTH,
    compiled,
    exp,
    select,
    vector_at,
)
from .simd import LANES, address_of, product


@njit("void(float32[:, ::1], int64, float32, float32[:, ::1])", **compiled)
def norm_columns(x: Any, weight: Any, eps: Any, out: Any) -> None:
    """RMSNorm of each column: x [H, P]."""
    rows, columns = x.shape
    scale = vector_at(weight, rows)
    factor = np.zeros(columns, np.float32)
    for i in range(rows):
        for n in range(columns):
            factor[n] += x[i, n] * x[i, n]
    for n in range(columns):
        factor[n] = ONE / np.float32(math.sqrt(factor[n] / np.float32(rows) + eps))
    for i in range(rows):
        for n in range(columns):
            out[i, n] = scale[i] * (x[i, n] * factor[n])


@njit("void(int64, float32[:, ::1], int64, float32[:, ::1])", **compiled)
def times(matrix: Any, x: Any, bias: Any, y: Any) -> None:
    """matrix [rows, width] by address, x [width, P], bias [rows] by address or 0 -> y [rows, P]."""
    rows, width, columns = y.shape[0], x.shape[0], x.shape[1]
    product(matrix, width, 1, address_of(x), columns, address_of(y), columns, rows, width, columns)
    if bias != 0:
        values = vector_at(bias, rows)
        for i in range(rows):
            for n in range(columns):
                y[i, n] += values[i]


@njit("void(float32[:, ::1], float32, float32[:, ::1], float32[:, ::1], int64)", **compiled)
def clip_and_rotate(x: Any, clip: Any, cos: Any, sin: Any, width: Any) -> None:
    """RoPE of every head in place: x [heads * D, P], cos, sin [D, P]."""
    half = width // 2
    for start in range(0, x.shape[0], width):
        for i in range(half):
            for n in range(x.shape[1]):
                first = min(max(x[start + i, n], -clip), clip)
                second = min(max(x[start + half + i, n], -clip), clip)
                x[start + i, n] = first * cos[i, n] - second * sin[i, n]
                x[start + half + i, n] = second * cos[half + i, n] + first * sin[half + i, n]


@njit("void(int64[::1], int64[::1], float32, float32, float32[:, ::1], int64, float32[:, ::1], float32[:, ::1],"
      "int64[::1], float32[:, ::1])", **compiled)
def keys_and_values(at: Any, sizes: Any, eps: Any, clip: Any, x: Any, tokens: Any, cos: Any, sin: Any, lane: Any,
                    q: Any) -> None:
    """x [H, P] of `tokens` tokens -> q [A*D, P]; their keys and values go into the lane.

    at: the layer's addresses. lane: addresses of this layer's keys and values [G, capacity, D], capacity, the first
    token's place.
    """
    columns, width, capacity, first = x.shape[1], sizes[WIDTH], lane[2], lane[3]
    h = np.empty_like(x)
    norm_columns(x, at[ATTENTION_NORM], eps, h)
    k, v = np.empty((sizes[KEYS], columns), np.float32), np.empty((sizes[KEYS], columns), np.float32)
    times(at[Q_PROJ], h, at[Q_BIAS], q)
    times(at[K_PROJ], h, at[K_BIAS], k)
    times(at[V_PROJ], h, at[V_BIAS], v)
    norm_columns(q, at[Q_NORM], eps, q)
    norm_columns(k, at[K_NORM], eps, k)
    clip_and_rotate(q, clip, cos, sin, width)
    clip_and_rotate(k, clip, cos, sin, width)
    for g in range(sizes[KEYS] // width):
        for n in range(tokens):
            place = 4 * (g * capacity + first + n) * width
            key, value = vector_at(lane[0] + place, width), vector_at(lane[1] + place, width)
            for i in range(width):
                key[i] = k[g * width + i, n]
                value[i] = min(max(v[g * width + i, n], -clip), clip)


@njit("void(float32[:, ::1], int64, int64[::1], int64[::1], float32[:, ::1])", **compiled)
def attend_columns(q: Any, tokens: Any, sizes: Any, lane: Any, out: Any) -> None:
    """q [A*D, P] -> out [A*D, P]: each token over what the lane holds up to itself, a vector of tokens at a time."""
    columns, width, capacity, first = q.shape[1], sizes[WIDTH], lane[2], lane[3]
    heads_a_group = sizes[QUERIES] // sizes[KEYS]
    scale = np.float32(1 / math.sqrt(width))
    scores = np.empty((first + tokens, LANES), np.float32)
    top, total = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    for a in range(sizes[QUERIES] // width):
        place = 4 * (a // heads_a_group) * capacity * width
        for start in range(0, columns, LANES):
            seen = first + min(start + LANES, tokens)  # keys up to this block's last token
            here = 4 * (a * width * columns + start)
            product(lane[0] + place, width, 1, address_of(q) + here, columns, address_of(scores), LANES, seen, width,
                    LANES)
            for t in range(first + start + 1, seen):
                for n in range(t - first - start):
                    scores[t, n] = -np.inf
            top[:] = -np.inf
            for t in range(seen):
                for n in range(LANES):
                    top[n] = max(top[n], scores[t, n])
            total[:] = np.float32(0)
            for t in range(seen):
                for n in range(LANES):
                    scores[t, n] = exp((scores[t, n] - top[n]) * scale)
            for t in range(first + start + 1, seen):
                for n in range(t - first - start):
                    scores[t, n] = np.float32(0)  # exp is bounded below
            for t in range(seen):
                for n in range(LANES):
                    total[n] += scores[t, n]
            product(lane[1] + place, 1, width, address_of(scores), LANES, address_of(out) + here, columns, width, seen,
                    LANES)
            for i in range(a * width, (a + 1) * width):
                for n in range(LANES):
                    out[i, start + n] = out[i, start + n] / total[n]


@njit("void(float32[:, ::1], int64, int64, uint8[:, ::1], float32[:, ::1], int64, int64[::1], float32[:, ::1])",
      **compiled)
def mix_columns(h: Any, gate_up: Any, down: Any, selected: Any, applied: Any, k: Any, sizes: Any, x: Any) -> None:
    """x [H, P] += the weighted sum of each token's experts, added in the experts' order: h [H, P], selected [N, K]."""
    hidden, inner, experts, tokens = sizes[HIDDEN], sizes[INNER], sizes[EXPERTS], selected.shape[0]
    sizes_of = np.zeros(experts, np.int64)
    token_of = np.empty((experts, tokens), np.int64)
    weight_of = np.empty((experts, tokens), np.float32)
    for n in range(tokens):
        for rank in range(k):
            e = selected[n, rank]
            token_of[e, sizes_of[e]], weight_of[e, sizes_of[e]] = n, applied[n, rank]
            sizes_of[e] += 1
    room = (tokens + LANES - 1) // LANES * LANES
    theirs = np.zeros(hidden * room, np.float32)
    between, output = np.empty(2 * inner * room, np.float32), np.empty(hidden * room, np.float32)
    for e in range(experts):
        count = sizes_of[e]
        columns = (count + LANES - 1) // LANES * LANES
        if count == 0:
            continue
        for i in range(hidden):
            for j in range(count):
                theirs[i * columns + j] = h[i, token_of[e, j]]
        product(gate_up + 8 * e * inner * hidden, hidden, 1, address_of(theirs), columns, address_of(between), columns,
                2 * inner, hidden, columns)
        for i in range(inner):
            for j in range(count):
                gate = between[i * columns + j]
                between[i * columns + j] = gate / (ONE + exp(-gate)) * between[(inner + i) * columns + j] \
                    * weight_of[e, j]
        product(down + 4 * e * inner * hidden, inner, 1, address_of(between), columns, address_of(output), columns,
                hidden, inner, columns)
        for i in range(hidden):
            for j in range(count):
                x[i, token_of[e, j]] += output[i * columns + j]


@njit("void(int64[::1], int64[::1], float32, float32[:, ::1], int64, float32[:, ::1], int64[::1], int64, int64,"
      "float32[:, ::1], uint8[:, ::1], float32[:, ::1])", **compiled)
def attention_and_experts(at: Any, sizes: Any, eps: Any, x: Any, tokens: Any, q: Any, lane: Any, k: Any,
                          weighting: Any, router_logits: Any, selected: Any, applied: Any) -> None:
    """x [H, P] -> in place, the stream after the layer. Written: router_logits [N, E], selected, applied [N, K]."""
    columns = x.shape[1]
    out, h = np.empty((sizes[QUERIES], columns), np.float32), np.empty_like(x)
    attend_columns(q, tokens, sizes, lane, out)
    times(at[O_PROJ], out, at[O_BIAS], h)
    x += h
    norm_columns(x, at[EXPERTS_NORM], eps, h)
    logits = np.empty((sizes[EXPERTS], columns), np.float32)
    times(at[ROUTER], h, 0, logits)
    for n in range(tokens):
        for e in range(sizes[EXPERTS]):
            router_logits[n, e] = logits[e, n]
        select(router_logits[n], k, weighting, sizes, selected[n], applied[n])
    mix_columns(h, at[GATE_UP], at[DOWN], selected, applied, k, sizes, x)
