"""One query a row against its slot's keys and values: QK-norm, RoPE, the cache write and split-KV attention.

A split is a fixed number of places, so how a row's sum is split depends on its own length alone (flash-decoding,
Dao et al. 2023). Programs take splits in turn; the one that finishes a head last adds up its splits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .common import last_to_arrive, rounded, wait_for_previous


@triton.jit
def normed_and_turned(whole, own, across, own_norm, across_norm, cos, sin, width, eps, HEAD: tl.constexpr,
                      dtype: tl.constexpr):
    """One head of RMSNorm over all heads, `whole`, rotated as GPT-NeoX does (RoPE, arXiv 2104.09864).

    own [HEAD]: the head before the norm; across: the same with its halves swapped.
    """
    whole = whole.to(tl.float32)
    scale = tl.rsqrt(tl.sum(whole * whole, 0) / width + eps)
    own = rounded(rounded(own.to(tl.float32) * scale, dtype) * own_norm.to(tl.float32), dtype)
    across = rounded(rounded(across.to(tl.float32) * scale, dtype) * across_norm.to(tl.float32), dtype)
    across = tl.where(tl.arange(0, HEAD) < HEAD // 2, -across, across)
    return rounded(own * cos.to(tl.float32) + across * sin.to(tl.float32), dtype)


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
    swapped = (d + HEAD // 2) % HEAD
    k = held_block(keys, held, first, here, HEAD, SPLIT)
    v = held_block(values, held, first, here, HEAD, SPLIT)
    q_own_norm = tl.load(q_norm + head * HEAD + d)
    q_across_norm = tl.load(q_norm + head * HEAD + swapped)
    k_own_norm = tl.load(k_norm + kv_head * HEAD + d)
    k_across_norm = tl.load(k_norm + kv_head * HEAD + swapped)
    cos = tl.load(cosines + tl.maximum(here, 0) * HEAD + d)
    sin = tl.load(sines + tl.maximum(here, 0) * HEAD + d)
    wait_for_previous(OVERLAP)
    if first * SPLIT > here:
        return
    row_at = qkv + row * ((HEADS + 2 * KV_HEADS) * HEAD)
    key_at = row_at + HEADS * HEAD
    every_q, every_k = tl.arange(0, QUERIES), tl.arange(0, KEYS)
    whole_q = tl.load(row_at + every_q, mask=every_q < HEADS * HEAD, other=0.0)  # all loads before the first sum
    whole_k = tl.load(key_at + every_k, mask=every_k < KV_HEADS * HEAD, other=0.0)
    q_own, q_across = tl.load(row_at + head * HEAD + d), tl.load(row_at + head * HEAD + swapped)
    k_own, k_across = tl.load(key_at + kv_head * HEAD + d), tl.load(key_at + kv_head * HEAD + swapped)
    new_value = tl.load(key_at + (KV_HEADS + kv_head) * HEAD + d)
    q = normed_and_turned(whole_q, q_own, q_across, q_own_norm, q_across_norm, cos, sin, HEADS * HEAD, eps, HEAD,
                          dtype) * softmax_scale
    new_key = normed_and_turned(whole_k, k_own, k_across, k_own_norm, k_across_norm, cos, sin, KV_HEADS * HEAD, eps,
                                HEAD, dtype)
    head_at = row * HEADS + head
    splits = here // SPLIT + 1
    for split in range(first, splits, tl.num_programs(1)):
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
        k = held_block(keys, held, split + tl.num_programs(1), here, HEAD, SPLIT)
        v = held_block(values, held, split + tl.num_programs(1), here, HEAD, SPLIT)
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
