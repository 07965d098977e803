"""One query a row against its slot's keys and values: QK-norm, RoPE, the cache write and split-KV attention.

A split is a fixed number of places, so how a row's sum is split depends on its own length alone (flash-decoding,
Dao et al. 2023). The program that finishes a head last adds up its splits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .common import last_to_arrive, rounded


@triton.jit
def normed_and_turned(x, norm, head, width, cos, sin, eps, HEAD: tl.constexpr, WIDTH: tl.constexpr):
    """One head of RMSNorm over all heads [width], rotated as GPT-NeoX does (RoPE, arXiv 2104.09864)."""
    dtype: tl.constexpr = x.dtype.element_ty
    every = tl.arange(0, WIDTH)
    whole = tl.load(x + every, mask=every < width, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(whole * whole, 0) / width + eps)
    d = tl.arange(0, HEAD)
    across = (d + HEAD // 2) % HEAD
    own = rounded(tl.load(x + head * HEAD + d).to(tl.float32) * scale, dtype)
    other = rounded(tl.load(x + head * HEAD + across).to(tl.float32) * scale, dtype)
    own = rounded(own * tl.load(norm + head * HEAD + d).to(tl.float32), dtype)
    other = rounded(other * tl.load(norm + head * HEAD + across).to(tl.float32), dtype)
    other = tl.where(d < HEAD // 2, -other, other)
    return rounded(own * tl.load(cos + d).to(tl.float32) + other * tl.load(sin + d).to(tl.float32), dtype)


@triton.jit
def attention(qkv, q_norm, k_norm, cosines, sines, keys, values, slots, positions, parts, tops, arrived, out,
              capacity, layer_at, softmax_scale, eps,
              HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD: tl.constexpr, QUERIES: tl.constexpr,
              KEYS: tl.constexpr, SPLIT: tl.constexpr, BLOCK: tl.constexpr, MAX_SPLITS: tl.constexpr):
    """out[row, head] for the token at place positions[slot] - 1; its key and value join the cache [.., capacity, HEAD].

    parts [rows, HEADS, splits, HEAD], tops [rows, HEADS, splits, 2]: each split's sum, maximum and normaliser.
    """
    head, split, row = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    slot = tl.load(slots + row)
    if slot < 0:
        return
    here = tl.load(positions + slot) - 1
    start = split * SPLIT
    if start > here:
        return
    dtype: tl.constexpr = qkv.dtype.element_ty
    d = tl.arange(0, HEAD)
    kv_head = head // (HEADS // KV_HEADS)
    row_at = qkv + row * ((HEADS + 2 * KV_HEADS) * HEAD)
    q = normed_and_turned(row_at, q_norm, head, HEADS * HEAD, cosines + here * HEAD, sines + here * HEAD, eps,
                          HEAD, QUERIES) * softmax_scale
    held = layer_at + (slot.to(tl.int64) * KV_HEADS + kv_head) * capacity * HEAD
    top = tl.full([], float("-inf"), tl.float32)
    normaliser = tl.full([], 0.0, tl.float32)
    sums = tl.zeros([HEAD], tl.float32)
    if start + SPLIT > here:  # the split that holds the new token
        k = normed_and_turned(row_at + HEADS * HEAD, k_norm, kv_head, KV_HEADS * HEAD, cosines + here * HEAD,
                              sines + here * HEAD, eps, HEAD, KEYS)
        v = tl.load(row_at + (HEADS + KV_HEADS + kv_head) * HEAD + d)
        if head % (HEADS // KV_HEADS) == 0:
            tl.store(keys + held + here * HEAD + d, k.to(dtype))
            tl.store(values + held + here * HEAD + d, v)
        top = tl.sum(q * k, 0)
        normaliser = tl.full([], 1.0, tl.float32)
        sums = v.to(tl.float32)
    for block in range(start, tl.minimum(start + SPLIT, here), BLOCK):
        t = block + tl.arange(0, BLOCK)
        past = t < here
        at = held + t[:, None] * HEAD + d[None, :]
        k = tl.load(keys + at, mask=past[:, None], other=0.0).to(tl.float32)
        v = tl.load(values + at, mask=past[:, None], other=0.0).to(tl.float32)
        scores = tl.where(past, tl.sum(k * q[None, :], 1), float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 0))
        shrink = tl.exp(top - new_top)
        p = tl.exp(scores - new_top)
        normaliser = normaliser * shrink + tl.sum(p, 0)
        sums = sums * shrink + tl.sum(p[:, None] * v, 0)
        top = new_top
    head_at = row * HEADS + head
    splits = here // SPLIT + 1
    if splits == 1:
        tl.store(out + head_at * HEAD + d, (sums / normaliser).to(dtype))
        return
    tl.store(parts + (head_at * MAX_SPLITS + split) * HEAD + d, sums)
    tl.store(tops + (head_at * MAX_SPLITS + split) * 2, top)
    tl.store(tops + (head_at * MAX_SPLITS + split) * 2 + 1, normaliser)
    if last_to_arrive(arrived + head_at, splits - 1):
        top = tl.full([], float("-inf"), tl.float32)
        normaliser = tl.full([], 0.0, tl.float32)
        sums = tl.zeros([HEAD], tl.float32)
        for s in range(0, splits):
            at = head_at * MAX_SPLITS + s
            part_top = tl.load(tops + at * 2, cache_modifier=".cg")
            new_top = tl.maximum(top, part_top)
            old, new = tl.exp(top - new_top), tl.exp(part_top - new_top)
            normaliser = normaliser * old + tl.load(tops + at * 2 + 1, cache_modifier=".cg") * new
            sums = sums * old + tl.load(parts + at * HEAD + d, cache_modifier=".cg") * new
            top = new_top
        tl.store(out + head_at * HEAD + d, (sums / normaliser).to(dtype))
