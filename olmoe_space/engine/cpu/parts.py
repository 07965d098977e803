"""What prefill and decode share: where weights lie, the exponential, the router's choice, the head.

Every function is compiled for one set of types, so that the compiled code is kept on disk and found again.
Shapes: H hidden, E experts, I expert intermediate, A/G query/key heads, D head width, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import carray, njit

from .simd import address_of, dots, pointer, power_of_two

compiled: Any = {"cache": True, "nogil": True, "error_model": "numpy"}

# Columns of the address table, a row a layer; 0 where a bias is absent.
FIELDS = ("attention_norm", "q_proj", "k_proj", "v_proj", "o_proj", "q_bias", "k_bias", "v_bias", "o_bias", "q_norm",
          "k_norm", "experts_norm", "router", "gate_up_proj", "down_proj")
(ATTENTION_NORM, Q_PROJ, K_PROJ, V_PROJ, O_PROJ, Q_BIAS, K_BIAS, V_BIAS, O_BIAS, Q_NORM, K_NORM, EXPERTS_NORM, ROUTER,
 GATE_UP, DOWN) = range(len(FIELDS))

# Places in the vector of sizes.
HIDDEN, INNER, QUERIES, KEYS, WIDTH, EXPERTS, DEFAULT_K, NORMALISED, VOCABULARY = range(9)
WEIGHTINGS = ("raw", "renormalised", "mass_preserving")
BLOCK = 64  # a matrix's rows that stay in the cache while every request's vector meets them

_f = np.float32
LOG2_E, LN_2_HIGH, LN_2_LOW, ROUNDER = _f(1.44269504), _f(0.693359375), _f(-2.12194440e-4), _f(12582912.0)
C0, C1, C2, C3, C4, C5 = (_f(c) for c in (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2,
                                          1.6666665459e-1, 5.0000001201e-1))
ZERO, ONE, LOWEST, HIGHEST = _f(0), _f(1), _f(-87), _f(88)


@njit("float32(float32)", **compiled)
def exp(x: Any) -> Any:
    """e**x to 2 units in the last place (Cephes' expf, Moshier 1992); no branch, so that loops become vectors."""
    x = min(max(x, LOWEST), HIGHEST)
    shifted = x * LOG2_E + ROUNDER
    n = shifted - ROUNDER
    r = x - n * LN_2_HIGH - n * LN_2_LOW
    p = ((((C0 * r + C1) * r + C2) * r + C3) * r + C4) * r + C5
    return (p * r * r + r + ONE) * power_of_two(shifted)


@njit("float32[::1](int64, int64)", **compiled)
def vector_at(address: Any, size: Any) -> Any:
    return carray(pointer(address), (size,), np.float32)


@njit("void(float32[::1], int64, float32, float32[::1])", **compiled)
def rms_norm(x: Any, weight: Any, eps: Any, out: Any) -> None:
    """RMSNorm (arXiv 1910.07467) of one vector."""
    scale, square = vector_at(weight, x.size), np.float32(0)
    for i in range(x.size):
        square += x[i] * x[i]
    factor = ONE / np.float32(math.sqrt(square / np.float32(x.size) + eps))
    for i in range(x.size):
        out[i] = scale[i] * (x[i] * factor)


@njit("void(int64, float32[:, ::1], int64, float32[:, ::1])", **compiled)
def linear(matrix: Any, x: Any, rows: Any, y: Any) -> None:
    """y[b] = matrix x[b] for each b: matrix [rows, width] by address, x [B, width] -> y [B, rows]."""
    width = x.shape[1]
    for start in range(0, rows, BLOCK):
        count = min(BLOCK, rows - start)
        for b in range(x.shape[0]):
            dots(matrix + 4 * start * width, address_of(x) + 4 * b * width,
                 address_of(y) + 4 * (b * y.shape[1] + start), count, width)


@njit("void(int64, float32[:, ::1])", **compiled)
def add_bias(bias: Any, y: Any) -> None:
    """bias [rows] by address, 0: none; y [B, rows]."""
    if bias != 0:
        values = vector_at(bias, y.shape[1])
        for b in range(y.shape[0]):
            for i in range(y.shape[1]):
                y[b, i] += values[i]


@njit("void(float32[::1], int64, int64, int64[::1], uint8[::1], float32[::1])", **compiled)
def select(logits: Any, k: Any, weighting: Any, sizes: Any, selected: Any, applied: Any) -> None:
    """The router's rule, as `engine.routing.select_experts` has it: logits [E] -> the first k of selected, applied."""
    experts = logits.size
    probs = np.empty(experts, np.float32)
    top = logits.max()
    total = ZERO
    for e in range(experts):
        probs[e] = exp(logits[e] - top)
        total += probs[e]
    for e in range(experts):
        probs[e] = probs[e] / total
    default_k = sizes[DEFAULT_K]
    mass, default_mass = ZERO, ZERO
    for rank in range(max(k, default_k) if weighting == 2 else k):
        best = 0
        for e in range(1, experts):
            if probs[e] > probs[best]:
                best = e
        if rank < default_k:
            default_mass += probs[best]
        if rank < k:
            selected[rank], applied[rank] = best, probs[best]
            mass += probs[best]
        probs[best] = -ONE
    if sizes[NORMALISED] != 0 or weighting != 0:
        wanted = default_mass if sizes[NORMALISED] == 0 and weighting == 2 else ONE
        for rank in range(k):
            applied[rank] = applied[rank] * (wanted / mass)


@njit("void(float32[:, ::1], int64, int64, float32, int64, float32[:, ::1])", **compiled)
def head(x: Any, final_norm: Any, lm_head: Any, eps: Any, vocabulary: Any, logits: Any) -> None:
    """The stream after the last layer [B, H] -> logits [B, V]."""
    normed = np.empty_like(x)
    for b in range(x.shape[0]):
        rms_norm(x[b], final_norm, eps, normed[b])
    linear(lm_head, normed, vocabulary, logits)
