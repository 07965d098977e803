"""One token each of several requests through all layers, in one call.

A request's vector meets each matrix by itself, in the same order of sums alone as in company; company saves reading the
weights again. Shapes: B requests, L layers; the others as in `parts`.
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
    add_bias,
    compiled,
    exp,
    linear,
    rms_norm,
    select,
    vector_at,
)
from .simd import address_of, dots, product


@njit("void(float32[::1], float32[::1], float32[::1])", **compiled)
def rotate(x: Any, cos: Any, sin: Any) -> None:
    """RoPE of one head in place, halves rotated as GPT-NeoX does: x, cos, sin [D]."""
    half = x.size // 2
    for i in range(half):
        first, second = x[i], x[half + i]
        x[i] = first * cos[i] - second * sin[i]
        x[half + i] = second * cos[half + i] + first * sin[half + i]


@njit("void(float32[::1], float32[::1], float32[::1], int64[::1], int64, int64, int64, int64, float32[::1])",
      **compiled)
def attend(q: Any, k: Any, v: Any, sizes: Any, keys: Any, values: Any, capacity: Any, length: Any, out: Any) -> None:
    """One token's attention over the `length` tokens before it and itself; its key and value are written behind them.

    keys, values: addresses of this layer's [G, capacity, D].
    """
    width, groups = sizes[WIDTH], sizes[KEYS] // sizes[WIDTH]
    heads_a_group = sizes[QUERIES] // sizes[KEYS]
    scores = np.empty(length + 1, np.float32)
    scale = np.float32(1 / math.sqrt(width))
    for g in range(groups):
        place = 4 * g * capacity * width
        vector_at(keys + place + 4 * length * width, width)[:] = k[g * width:(g + 1) * width]
        vector_at(values + place + 4 * length * width, width)[:] = v[g * width:(g + 1) * width]
        for a in range(g * heads_a_group, (g + 1) * heads_a_group):
            dots(keys + place, address_of(q) + 4 * a * width, address_of(scores), length + 1, width)
            top = scores.max()
            total = np.float32(0)
            for t in range(length + 1):
                scores[t] = exp((scores[t] - top) * scale)
            for t in range(length + 1):
                total += scores[t]
            product(address_of(scores), 0, 1, values + place, width, address_of(out) + 4 * a * width, width, 1,
                    length + 1, width)
            for i in range(a * width, (a + 1) * width):
                out[i] = out[i] / total


@njit("void(float32[:, ::1], int64, int64, uint8[:, ::1], float32[:, ::1], int64[::1], int64[::1])", **compiled)
def mix(h: Any, gate_up: Any, down: Any, selected: Any, applied: Any, ks: Any, sizes: Any) -> None:
    """h [B, H] -> in place, the weighted sum of each request's experts, added in the experts' order."""
    hidden, inner, batch = sizes[HIDDEN], sizes[INNER], h.shape[0]
    weight = np.zeros((sizes[EXPERTS], batch), np.float32)
    chosen = np.zeros((sizes[EXPERTS], batch), np.uint8)
    for b in range(batch):
        for rank in range(ks[b]):
            weight[selected[b, rank], b] = applied[b, rank]
            chosen[selected[b, rank], b] = 1
    between, output = np.empty(2 * inner, np.float32), np.empty(hidden, np.float32)
    total = np.zeros_like(h)
    for e in range(sizes[EXPERTS]):
        for b in range(batch):
            if chosen[e, b]:
                dots(gate_up + 8 * e * inner * hidden, address_of(h) + 4 * b * hidden, address_of(between), 2 * inner,
                     hidden)
                for i in range(inner):
                    gate = between[i]
                    between[i] = gate / (ONE + exp(-gate)) * between[inner + i] * weight[e, b]
                dots(down + 4 * e * inner * hidden, address_of(between), address_of(output), hidden, inner)
                for i in range(hidden):
                    total[b, i] += output[i]
    h[:] = total


@njit("void(int64[:, ::1], int64[::1], float32, float32, float32[:, ::1], float32[:, ::1], float32[:, ::1],"
      "int64[:, ::1], int64[::1], int64[::1], float32[:, :, ::1], uint8[:, :, ::1], float32[:, :, ::1])", **compiled)
def decode(table: Any, sizes: Any, eps: Any, clip: Any, x: Any, cos: Any, sin: Any, lanes: Any, ks: Any,
           weighting: Any, router_logits: Any, selected: Any, applied: Any) -> None:
    """x [B, H] embeddings -> in place, the stream after the last layer.

    table [L, FIELDS]; clip: largest magnitude of q, k and v; cos, sin [B, D]; lanes [B, 4]: addresses of keys and
    values [L, G, capacity, D], capacity, tokens held; ks, weighting [B]. Written: router_logits [L, B, E], selected
    and applied [L, B, K].
    """
    batch, width = x.shape[0], sizes[WIDTH]
    h = np.empty_like(x)
    q, out = np.empty((batch, sizes[QUERIES]), np.float32), np.empty((batch, sizes[QUERIES]), np.float32)
    k, v = np.empty((batch, sizes[KEYS]), np.float32), np.empty((batch, sizes[KEYS]), np.float32)
    for layer in range(table.shape[0]):
        at = table[layer]
        for b in range(batch):
            rms_norm(x[b], at[ATTENTION_NORM], eps, h[b])
        linear(at[Q_PROJ], h, sizes[QUERIES], q)
        linear(at[K_PROJ], h, sizes[KEYS], k)
        linear(at[V_PROJ], h, sizes[KEYS], v)
        add_bias(at[Q_BIAS], q)
        add_bias(at[K_BIAS], k)
        add_bias(at[V_BIAS], v)
        for b in range(batch):
            rms_norm(q[b], at[Q_NORM], eps, q[b])
            rms_norm(k[b], at[K_NORM], eps, k[b])
            for part in (q[b], k[b], v[b]):
                for i in range(part.size):
                    part[i] = min(max(part[i], -clip), clip)
            for start in range(0, sizes[QUERIES], width):
                rotate(q[b, start:start + width], cos[b], sin[b])
            for start in range(0, sizes[KEYS], width):
                rotate(k[b, start:start + width], cos[b], sin[b])
            capacity = lanes[b, 2]
            place = 4 * layer * sizes[KEYS] * capacity
            attend(q[b], k[b], v[b], sizes, lanes[b, 0] + place, lanes[b, 1] + place, capacity, lanes[b, 3], out[b])
        linear(at[O_PROJ], out, sizes[HIDDEN], h)
        add_bias(at[O_BIAS], h)
        x += h
        for b in range(batch):
            rms_norm(x[b], at[EXPERTS_NORM], eps, h[b])
        linear(at[ROUTER], h, sizes[EXPERTS], router_logits[layer])
        for b in range(batch):
            select(router_logits[layer, b], ks[b], weighting[b], sizes, selected[layer, b], applied[layer, b])
        mix(h, at[GATE_UP], at[DOWN], selected[layer], applied[layer], ks, sizes)
        x += h
