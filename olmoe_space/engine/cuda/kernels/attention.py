"""One query a row against its slot's keys and values: QK-norm, RoPE, the cache write and split-KV attention.

A split is a fixed number of places, so how a row's sum is split depends on its own length alone (flash-decoding,
Dao et al. 2023). Programs take splits in turn; the one that finishes a head last adds up its splits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .common import last_to_arrive, rounded, wait_for_previous


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
def held_block(cache, held, split, here, HEAD: tl.constexpr, SPLIT: tl.constexpr):
    """[SPLIT, HEAD] of a head's keys or values in a split, 0 from the place `here` on."""
    t = split * SPLIT + tl.arange(0, SPLIT)
    return tl.load(cache + held + t[:, None] * HEAD + tl.arange(0, HEAD)[None, :], mask=(t < here)[:, None], other=0.0)


@triton.jit
def attention(qkv, q_norm, k_norm, cosines, sines, keys, values, slots, positions, parts, tops, arrived, out,
              capacity, layer_at, softmax_scale, eps,
              HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD: tl.constexpr, QUERIES: tl.constexpr,
              KEYS: tl.constexpr, SPLIT: tl.constexpr, MAX_SPLITS: tl.constexpr, SPLITS: tl.constexpr,
              OVERLAP: tl.constexpr):
    """out[row, head] for the token at place positions[slot] - 1; its key and value join the cache [.., capacity, HEAD].

    parts [rows, HEADS, MAX_SPLITS, HEAD], tops [rows, HEADS, MAX_SPLITS, 2]: each split's sum, maximum and normaliser.
    The new token's key and value go through registers: the cache is read before the launch that makes them has ended.
    """
    head, first, row = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    dtype: tl.constexpr = qkv.dtype.element_ty
    slot = tl.load(slots + row)
    here = tl.where(slot >= 0, tl.load(positions + tl.maximum(slot, 0)) - 1, -1)
    d = tl.arange(0, HEAD)
    kv_head = head // (HEADS // KV_HEADS)
    held = layer_at + (tl.maximum(slot, 0).to(tl.int64) * KV_HEADS + kv_head) * capacity * HEAD
    k = held_block(keys, held, first, here, HEAD, SPLIT)
    v = held_block(values, held, first, here, HEAD, SPLIT)
    wait_for_previous(OVERLAP)
    if first * SPLIT > here:
        return
    row_at = qkv + row * ((HEADS + 2 * KV_HEADS) * HEAD)
    q = normed_and_turned(row_at, q_norm, head, HEADS * HEAD, cosines + here * HEAD, sines + here * HEAD, eps,
                          HEAD, QUERIES) * softmax_scale
    new_key = normed_and_turned(row_at + HEADS * HEAD, k_norm, kv_head, KV_HEADS * HEAD, cosines + here * HEAD,
                                sines + here * HEAD, eps, HEAD, KEYS)
    new_value = tl.load(row_at + (HEADS + KV_HEADS + kv_head) * HEAD + d)
    head_at = row * HEADS + head
    splits = here // SPLIT + 1
    for split in range(first, splits, tl.num_programs(1)):
        coming_k = held_block(keys, held, split + tl.num_programs(1), here, HEAD, SPLIT)
        coming_v = held_block(values, held, split + tl.num_programs(1), here, HEAD, SPLIT)
        t = split * SPLIT + tl.arange(0, SPLIT)
        scores = tl.sum(k.to(tl.float32) * q[None, :], 1)
        scores = tl.where(t < here, scores, tl.where(t == here, tl.sum(q * new_key, 0), float("-inf")))
        top = tl.max(scores, 0)
        p = tl.exp(scores - top)
        sums = tl.sum(p[:, None] * v.to(tl.float32), 0)
        if split == splits - 1:  # it holds the new token
            sums += tl.sum(tl.where(t == here, p, 0.0), 0) * new_value.to(tl.float32)
            if head % (HEADS // KV_HEADS) == 0:
                tl.store(keys + held + here * HEAD + d, new_key.to(dtype))
                tl.store(values + held + here * HEAD + d, new_value)
        if splits == 1:
            tl.store(out + head_at * HEAD + d, (sums / tl.sum(p, 0)).to(dtype))
        else:
            at = head_at * MAX_SPLITS + split
            tl.store(parts + at * HEAD + d, sums)
            tl.store(tops + at * 2, top)
            tl.store(tops + at * 2 + 1, tl.sum(p, 0))
        k = coming_k
        v = coming_v
    if splits > 1:
        if last_to_arrive(arrived + head_at, tl.minimum(splits, tl.num_programs(1)) - 1):
            s = tl.arange(0, SPLITS)
            at = head_at * MAX_SPLITS + s
            part_tops = tl.load(tops + at * 2, mask=s < splits, other=float("-inf"), cache_modifier=".cg")
            part_sums = tl.load(parts + at[:, None] * HEAD + d[None, :], mask=(s < splits)[:, None], other=0.0,
                                cache_modifier=".cg")
            normalisers = tl.load(tops + at * 2 + 1, mask=s < splits, other=0.0, cache_modifier=".cg")
            scale = tl.exp(part_tops - tl.max(part_tops, 0))
            whole = tl.sum(part_sums * scale[:, None], 0) / tl.sum(normalisers * scale, 0)
            tl.store(out + head_at * HEAD + d, whole.to(dtype))
