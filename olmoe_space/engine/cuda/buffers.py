"""What stays on the device between steps: a slot's settings and place, a batch's intermediate results.

Shapes: S slots, B rows of a batch, A/G query/key heads, D head width, H hidden, I expert intermediate, E experts,
L layers, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...model.structure import OlmoeWeights

SPLIT = 64  # places of the cache that one attention program reads; fixed, so that a row's sums are its own
CHUNKS = 16  # of the vocabulary, each searched by a program
SHARES = 8  # at most, of the columns of a down product


@dataclass(frozen=True)
class Slots:
    """One element a slot, read by the kernels at every step: changing one costs no capture."""

    k: Tensor  # int32
    weighting: Tensor  # int32: RAW, RENORMALISED or MASS_PRESERVING of kernels.router
    temperature: Tensor  # float32
    top_p: Tensor  # float32
    seed: Tensor  # int64
    forced: Tensor  # int32: the token to feed, or -1: draw one
    position: Tensor  # int32: tokens held
    token: Tensor  # int32: the last one fed
    logits: Tensor  # [2, S, V] in the model's dtype: those after n tokens at n % 2


@dataclass(frozen=True)
class Batch:
    """Intermediate results of a step of up to B rows, and its trace."""

    slots: Tensor  # int32 [B]: each row's slot, -1 for none
    chunk_tops: Tensor  # float32 [B, CHUNKS]: the largest logit of each chunk of the vocabulary
    chunk_firsts: Tensor  # int32 [B, CHUNKS]: the first token that has it
    draw_arrived: Tensor  # int32 [B]: programs done, zero between launches, as all `arrived`
    logits_at: Tensor  # int32 [B]: where a row's new logits go in Slots.logits, its first two axes as one; -1: nowhere
    stream: Tensor  # float32 [B, H]: the residual stream
    normed: Tensor  # [B, H]
    qkv: Tensor  # [B, (A + 2G) * D]
    attended: Tensor  # [B, A * D]
    parts: Tensor  # float32 [B, A, splits, D]
    tops: Tensor  # float32 [B, A, splits, 2]
    router_logits: Tensor  # float32 [B, E]
    weight_of: Tensor  # float32 [B, E]
    touched: Tensor  # int32 [2E]: experts that some row chose; then old ones, which are read but not used
    count: Tensor  # int32 [1]: how many
    inner: Tensor  # [E, B, I]
    down_parts: Tensor  # float32 [SHARES, B, H]
    attention_arrived: Tensor  # int32 [B * A]: see draw_arrived
    router_arrived: Tensor  # int32 [B + 1]
    down_arrived: Tensor  # int32 [H / 16]
    trace: Tensor  # int32 [B, L * 3 * E + 1]: a layer's logits (float bits), experts by rank, weights; then the token




def new_slots(weights: OlmoeWeights, slots: int) -> Slots:
    def empty(dtype: torch.dtype) -> Tensor:
        return torch.zeros(slots, dtype=dtype, device=weights.device)

    return Slots(k=empty(torch.int32), weighting=empty(torch.int32), temperature=empty(torch.float32),
                 top_p=empty(torch.float32), seed=empty(torch.int64), forced=empty(torch.int32),
                 position=empty(torch.int32), token=empty(torch.int32),
                 logits=torch.zeros(2, slots, weights.lm_head.shape[0], dtype=weights.dtype, device=weights.device))


def new_batch(weights: OlmoeWeights, rows: int, capacity: int) -> Batch:
    hidden, experts = weights.embedding.shape[1], weights.num_experts
    heads, width = weights.num_heads, weights.head_dim
    splits = -(-capacity // SPLIT)

    def zeros(*shape: int, dtype: torch.dtype = weights.dtype) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=weights.device)

    return Batch(
        slots=torch.full((rows,), -1, dtype=torch.int32, device=weights.device),
        chunk_tops=zeros(rows, CHUNKS, dtype=torch.float32), chunk_firsts=zeros(rows, CHUNKS, dtype=torch.int32),
        draw_arrived=zeros(rows, dtype=torch.int32),
        logits_at=torch.full((rows,), -1, dtype=torch.int32, device=weights.device),
        stream=zeros(rows, hidden, dtype=torch.float32), normed=zeros(rows, hidden),
        qkv=zeros(rows, (heads + 2 * weights.num_kv_heads) * width), attended=zeros(rows, heads * width),
        parts=zeros(rows, heads, splits, width, dtype=torch.float32),
        tops=zeros(rows, heads, splits, 2, dtype=torch.float32),
        router_logits=zeros(rows, experts, dtype=torch.float32), weight_of=zeros(rows, experts, dtype=torch.float32),
        touched=zeros(2 * experts, dtype=torch.int32), count=zeros(1, dtype=torch.int32),
        inner=zeros(experts, rows, weights.layers[0].down_proj.shape[2]),
        down_parts=zeros(SHARES, rows, hidden, dtype=torch.float32),
        attention_arrived=zeros(rows * heads, dtype=torch.int32), router_arrived=zeros(rows + 1, dtype=torch.int32),
        down_arrived=zeros(-(-hidden // 16), dtype=torch.int32),
        trace=zeros(rows, len(weights.layers) * 3 * experts + 1, dtype=torch.int32))
