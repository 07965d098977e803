"""OLMoE's forward with k as an argument: tokens, a cache and each row's routing in; logits and routing out.

transformers reads k once, when it builds the router, so a setting changed later does nothing and a changed
module would be shared by every chat. Here k is data of the row. All else is OLMoE as published
(arXiv 2409.02060): RMSNorm, attention with QK-norm over all heads and RoPE, residual; RMSNorm, router,
weighted sum of k experts, residual; final norm and head.

Knows nothing of text, sampling or requests.
Shapes: B rows, N new tokens a row, T tokens so far, H hidden, A/G query/key heads, D head width, E experts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..model.int8 import linear
from ..model.structure import LayerWeights, OlmoeWeights
from .cache import KeyValueCache
from .experts import mix_experts
from .routing import RowRouting, select_experts
from .threads import threads_for

Watch = Callable[[str, int, Tensor], None]
"""Told (name, layer, tensor) as a forward goes; layer -1 before the first and after the last. To read only."""


def _nobody(name: str, layer: int, value: Tensor) -> None:
    pass


@dataclass(frozen=True)
class StepOutput:
    logits: Tensor  # float32 [B, N or 1, V]
    router_logits: Tensor  # float32 [B, N, L, E]
    selected_experts: Tensor  # uint8 [B, N, L, K]
    routing_weights: Tensor  # float32 [B, N, L, K]
    active_experts: Tensor  # uint8 [B, N, L]: so many of the selected, the first ones, work on the token


@torch.inference_mode()
def forward(weights: OlmoeWeights, token_ids: Tensor, cache: KeyValueCache, rows: list[int], routing: RowRouting,
            all_logits: bool = False, watch: Watch = _nobody) -> StepOutput:
    """Run token_ids [B, N] behind what the cache's `rows` hold, and add them to it.

    Logits are those after each row's last token, or after every token with `all_logits`. `watch` is told, a layer:
    attention_input, queries, keys, values, attention_output, stream_between, experts_input, experts_output,
    stream_out; and embedding and final_norm at the ends.
    """
    with threads_for(weights, token_ids.numel()):
        return _forward(weights, token_ids, cache, rows, routing, all_logits, watch)


def _forward(weights: OlmoeWeights, token_ids: Tensor, cache: KeyValueCache, rows: list[int], routing: RowRouting,
             all_logits: bool, watch: Watch) -> StepOutput:
    new = token_ids.shape[1]
    starts = torch.tensor([cache.lengths[r] for r in rows], device=token_ids.device)
    positions = starts[:, None] + torch.arange(new, device=token_ids.device)  # [B, N]
    x = F.embedding(token_ids, weights.embedding)  # [B, N, H]
    cos, sin = weights.rotary(x, positions)
    turn = (cos.unsqueeze(2), sin.unsqueeze(2))  # [B, N, 1, D]
    mask = _mask(cache, rows, positions)
    watch("embedding", -1, x)
    router_logits, selected, applied, active = [], [], [], []
    for i, layer in enumerate(weights.layers):
        h = rms_norm(x, layer.attention_norm, weights.norm_eps)
        watch("attention_input", i, h)
        out = _attention(h, layer, weights, turn, mask, cache, i, rows, watch)
        watch("attention_output", i, out)
        x = x + out
        watch("stream_between", i, x)
        h = rms_norm(x, layer.experts_norm, weights.norm_eps)
        watch("experts_input", i, h)
        logits = F.linear(h, layer.router)  # [B, N, E]
        weight, experts, working = select_experts(logits, routing, i, positions, weights.default_k,
                                                  weights.norm_topk_prob)
        out = mix_experts(h.flatten(0, 1), weight.flatten(0, 1), experts.flatten(0, 1), layer, weights).view_as(x)
        watch("experts_output", i, out)
        x = x + out
        watch("stream_out", i, x)
        router_logits.append(logits)
        selected.append(experts)
        applied.append(weight)
        active.append(working)
    cache.advance(rows, new)
    x = rms_norm(x if all_logits else x[:, -1:], weights.final_norm, weights.norm_eps)
    watch("final_norm", -1, x)
    return StepOutput(linear(x, weights.lm_head).float(), torch.stack(router_logits, 2).float(),
                      torch.stack(selected, 2).to(torch.uint8), torch.stack(applied, 2).float(),
                      torch.stack(active, 2).to(torch.uint8))


def _mask(cache: KeyValueCache, rows: list[int], positions: Tensor) -> Tensor | None:
    """True where token n of a row may look at place t: bool [B, 1, N, T], or None if it may look at all."""
    total = max(cache.lengths[r] for r in rows) + positions.shape[1]
    if positions.shape[1] == 1 and len({cache.lengths[r] for r in rows}) == 1:
        return None
    return (torch.arange(total, device=positions.device) <= positions[..., None]).unsqueeze(1)


def _attention(x: Tensor, layer: LayerWeights, weights: OlmoeWeights, turn: tuple[Tensor, Tensor],
               mask: Tensor | None, cache: KeyValueCache, index: int, rows: list[int], watch: Watch) -> Tensor:
    """[B, N, H] -> [B, N, H]"""
    batch, new, _ = x.shape
    q = rms_norm(linear(x, layer.q_proj, layer.q_bias), layer.q_norm, weights.norm_eps)
    k = rms_norm(linear(x, layer.k_proj, layer.k_bias), layer.k_norm, weights.norm_eps)
    v = linear(x, layer.v_proj, layer.v_bias)
    if weights.clip_qkv is not None:
        q, k, v = (t.clamp(-weights.clip_qkv, weights.clip_qkv) for t in (q, k, v))
    q = _rotate(q.view(batch, new, weights.num_heads, -1), *turn).transpose(1, 2)  # [B, A, N, D]
    k = _rotate(k.view(batch, new, weights.num_kv_heads, -1), *turn).transpose(1, 2)  # [B, G, N, D]
    v = v.view(batch, new, weights.num_kv_heads, -1).transpose(1, 2)
    k, v = cache.write(index, rows, k, v)  # [B, G, T, D]
    watch("queries", index, q)
    watch("keys", index, k)
    watch("values", index, v)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=weights.num_heads != weights.num_kv_heads)
    return linear(out.transpose(1, 2).reshape(batch, new, -1), layer.o_proj, layer.o_bias)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE (Su et al. 2021, arXiv 2104.09864), halves rotated as GPT-NeoX does: x [B, N, heads, D]."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm (Zhang & Sennrich 2019, arXiv 1910.07467), in float32 as the model was trained."""
    mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square() / x.shape[-1]
    return weight * (x.float() * torch.rsqrt(mean_square + eps)).to(x.dtype)
