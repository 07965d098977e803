"""Norm, router logits, softmax, the k most probable and their weights; the list of experts that the batch touches."""

from __future__ import annotations

import triton
import triton.language as tl

from .common import last_to_arrive, normed, rounded, wait_for_previous

RAW: tl.constexpr = tl.constexpr(0)
RENORMALISED: tl.constexpr = tl.constexpr(1)
MASS_PRESERVING: tl.constexpr = tl.constexpr(2)


@triton.jit
def route(x, norm, router, slots, ks, weightings, normed_x, logits, weight_of, touched, count, arrived, trace_float,
          trace_int, trace_at, trace_width, batch, size, eps, NUM_EXPERTS: tl.constexpr, DEFAULT_K: tl.constexpr,
          NORM_TOPK_PROB: tl.constexpr, BATCH: tl.constexpr, ROWS: tl.constexpr, EXPERTS: tl.constexpr,
          COLUMNS: tl.constexpr, OVERLAP: tl.constexpr):
    """A program: ROWS experts' logits of one batch row. The last of a row selects; the last of all lists.

    logits, weight_of: float32 [batch, NUM_EXPERTS], the latter 0 where an expert was not chosen.
    trace_*: two views of one buffer [batch, trace_width]; from trace_at on: logits, experts by rank, their weights.
    """
    block, row = tl.program_id(0), tl.program_id(1)
    dtype: tl.constexpr = router.dtype.element_ty
    columns = tl.arange(0, COLUMNS)
    inside = columns < size
    rows = block * ROWS + tl.arange(0, ROWS)
    w = tl.load(router + rows[:, None] * size + columns[None, :],
                mask=(rows < NUM_EXPERTS)[:, None] & inside[None, :], other=0.0)
    norm_weight = tl.load(norm + columns, mask=inside, other=0.0)
    slot = tl.load(slots + row)
    k = tl.where(slot >= 0, tl.load(ks + tl.maximum(slot, 0)), 0)
    weighting = tl.load(weightings + tl.maximum(slot, 0))
    wait_for_previous(OVERLAP)
    h = normed(tl.load(x + row * size + columns, mask=inside, other=0.0), norm_weight, size, eps, dtype)
    if BATCH > 1:  # one row's products norm for themselves
        if block == 0:
            tl.store(normed_x + row * size + columns, h.to(dtype), mask=inside)
    mine = rounded(tl.sum(w.to(tl.float32) * h[None, :], 1), dtype)
    tl.store(logits + row * NUM_EXPERTS + rows, mine, mask=rows < NUM_EXPERTS)
    if last_to_arrive(arrived + row, tl.num_programs(0) - 1):
        e = tl.arange(0, EXPERTS)
        known = e < NUM_EXPERTS
        at = logits + row * NUM_EXPERTS + e
        own = tl.load(at, mask=known, other=float("-inf"), cache_modifier=".cg")
        rivals = tl.load(at, mask=known, other=float("-inf"), cache_modifier=".cg")
        ahead = (rivals[None, :] > own[:, None]) | ((rivals[None, :] == own[:, None]) & (e[None, :] < e[:, None]))
        rank = tl.sum(ahead.to(tl.int32), 1)
        p = tl.exp(own - tl.max(own, 0))
        p = p / tl.sum(p, 0)
        mass = tl.sum(tl.where(rank < k, p, 0.0), 0)
        default_mass = tl.sum(tl.where(rank < DEFAULT_K, p, 0.0), 0)
        scale = tl.where(weighting == RENORMALISED, 1 / mass,
                         tl.where(weighting == MASS_PRESERVING, default_mass / mass, 1.0))
        if NORM_TOPK_PROB:
            scale = 1 / mass
        weight = tl.where(rank < k, rounded(p * scale, dtype), 0.0)
        tl.store(weight_of + row * NUM_EXPERTS + e, weight, mask=known)
        line = row * trace_width + trace_at
        tl.store(trace_float + line + e, own, mask=known)
        tl.store(trace_int + line + NUM_EXPERTS + rank, e, mask=known)
        tl.store(trace_float + line + 2 * NUM_EXPERTS + rank, weight, mask=known)
        if BATCH == 1:
            alone = (weight != 0).to(tl.int32)
            tl.store(touched + tl.cumsum(alone, 0) - 1, e, mask=alone > 0)
            tl.store(count, tl.sum(alone, 0))
        elif last_to_arrive(arrived + batch, batch - 1):
            b = tl.arange(0, BATCH)
            weights = tl.load(weight_of + b[:, None] * NUM_EXPERTS + e[None, :],
                              mask=(b < batch)[:, None] & known[None, :], other=0.0, cache_modifier=".cg")
            chosen = (tl.sum((weights != 0).to(tl.int32), 0) > 0).to(tl.int32)
            tl.store(touched + tl.cumsum(chosen, 0) - 1, e, mask=chosen > 0)
            tl.store(count, tl.sum(chosen, 0))
