"""OLMoE's architecture written for training: all experts as one dense product, layers stacked in one tensor each.

Computes exactly what transformers' `OlmoeForCausalLM` computes (a test compares the logits); export.py translates
the weights. It knows nothing of generation.

Legend: T tokens (flat, all segments of a batch), D hidden, H heads, L layers, E experts, I expert intermediate,
V vocabulary.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch._dynamo
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn

# How this torch's varlen_attn is told to be causal: it changed between versions.
VARLEN_CAUSAL: dict[str, Any] = (
    {"is_causal": True} if "is_causal" in inspect.signature(varlen_attn).parameters else {"window_size": (-1, 0)}
)


@dataclass(frozen=True)
class ModelConfig:
    vocab: int = 8192
    hidden: int = 256
    layers: int = 16
    heads: int = 4
    experts: int = 64
    experts_per_token: int = 8
    expert_intermediate: int = 32
    max_positions: int = 1024
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5


SIZES = {
    "tiny": ModelConfig(),
    "micro": ModelConfig(hidden=32, layers=2, heads=2, experts=8, experts_per_token=2, expert_intermediate=8),
}


@dataclass
class Segments:
    """Where each token stands."""

    positions: Tensor  # [T] from 0 in every segment
    starts: Tensor  # [S + 1] int32, see mixture.Batch


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """float32 in, float32 out. x: [T, D], weight: [D]."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions. x: [T, H, D/H], cos and sin: [T, 1, D/H]."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def attend_masked(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, longest: int) -> Tensor:
    """Attention within segments by an explicit mask [T, T]: for CPU and small batches. q, k, v: [T, H, D/H]."""
    index = torch.arange(q.shape[0], device=q.device)
    segment = torch.searchsorted(starts, index, right=True)  # [T]
    mask = (segment[:, None] == segment[None, :]) & (index[:, None] >= index[None, :])
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))  # [1, H, T, D/H]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)[0].transpose(0, 1)


def attend_rows(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, longest: int) -> Tensor:
    """The fallback on CUDA: rows of `longest` tokens, segments not kept apart. q, k, v: [T, H, D/H]."""
    q, k, v = (x.unflatten(0, (-1, longest)).transpose(1, 2) for x in (q, k, v))  # [T/longest, H, longest, D/H]
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(0, 1)


def attend_varlen(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, longest: int) -> Tensor:
    """FlashAttention over segments of different lengths (CUDA). q, k, v: [T, H, D/H] bf16."""
    return cast(Tensor, varlen_attn(q, k, v, starts, starts, longest, longest, **VARLEN_CAUSAL))


Attend = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]
ATTENTION: dict[str, Attend] = {
    "masked": attend_masked,
    "rows": attend_rows,
    "varlen": attend_varlen,
}


def choose_attention(device: torch.device) -> str:
    """`varlen` where it works and agrees with the masked form, forward and backward; said on stderr if not."""
    if device.type != "cuda":
        return "masked"
    try:
        starts = torch.tensor([0, 7, 100, 256, 256, 256], dtype=torch.int32, device=device)
        x = torch.randn(3, 256, 4, 64, device=device, dtype=torch.bfloat16)
        results = []
        for attend in (attend_varlen, attend_masked):
            leaf = x.clone().requires_grad_()
            q, k, v = leaf.unbind(0)
            out = attend(q, k, v, starts, 256)
            out.float().square().sum().backward()
            results.append((out.float(), leaf.grad.float()))  # type: ignore[union-attr]
        for ours, reference in zip(*results, strict=True):
            error = ((ours - reference).norm() / reference.norm()).item()
            if not error < 2e-2:
                raise RuntimeError(f"relative error {error:.2e} against the masked form")
        return "varlen"
    except Exception as problem:  # any failure means the slower, safe form, and the log says which
        print(f"attention: varlen unusable ({problem!r}); rows instead", file=sys.stderr, flush=True)
        return "rows"


def block(
    x: Tensor,  # [T, D] float32, the residual stream
    attention: Tensor,  # [4, D, D]: q, k, v, o as (out, in)
    gate_up: Tensor,  # [E, 2, I, D]
    down: Tensor,  # [E, I, D]: transformers' down_proj, transposed
    router: Tensor,  # [E, D] float32
    norms: Tensor,  # [4, D] float32: before attention, q, k, before experts
    cos: Tensor,  # [T, 1, D/H]
    sin: Tensor,
    starts: Tensor,
    config: ModelConfig,
    kind: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One layer: (x, load-balancing loss, z-loss, share of tokens that each expert serves [E])."""
    dtype, eps = attention.dtype, config.norm_eps
    hidden = rms_norm(x, norms[0], eps).to(dtype)
    q, k, v = F.linear(hidden, attention[:3].flatten(0, 1)).chunk(3, dim=-1)  # [T, D] each
    q, k = rms_norm(q.float(), norms[1], eps), rms_norm(k.float(), norms[2], eps)
    q, k, v = (part.unflatten(-1, (config.heads, -1)) for part in (q, k, v))  # [T, H, D/H]
    q, k = rotate(q, cos, sin).to(dtype), rotate(k, cos, sin).to(dtype)
    mixed = ATTENTION[kind](q, k, v, starts, config.max_positions).flatten(1)
    x = x + F.linear(mixed, attention[3]).float()

    hidden32 = rms_norm(x, norms[3], eps)
    logits = F.linear(hidden32, router)  # [T, E] float32
    probabilities = logits.softmax(-1)
    least = probabilities.detach().topk(config.experts_per_token, dim=-1).values[:, -1:]
    selected = (probabilities.detach() >= least).float()  # [T, E]
    weights = probabilities * selected  # not renormalised: norm_topk_prob is False
    gate, up = F.linear(hidden32.to(dtype), gate_up.flatten(0, 2)).unflatten(-1, (config.experts, 2, -1)).unbind(2)
    inner = F.silu(gate) * up * weights.to(dtype).unsqueeze(-1)  # [T, E, I]
    x = x + (inner.flatten(1) @ down.flatten(0, 1)).float()

    load = selected.mean(0)  # [E], sums to experts_per_token
    balance = config.experts / config.experts_per_token * (load * probabilities.mean(0)).sum()  # 1 when even
    return x, balance, logits.logsumexp(-1).square().mean(), load


def head_loss(x: Tensor, norm: Tensor, embedding: Tensor, targets: Tensor, weights: Tensor, eps: float) -> Tensor:
    """Weighted mean cross-entropy in nats. x: [T, D], embedding: [V, D], targets and weights: [T]."""
    logits = F.linear(rms_norm(x, norm, eps).to(embedding.dtype), embedding).float()  # [T, V]
    return (F.cross_entropy(logits, targets, reduction="none") * weights).sum() / weights.sum()


class TrainingModel(nn.Module):
    """The weights, float32, stacked over layers; computed in `dtype`."""

    cos: Tensor  # [positions, D/H]
    sin: Tensor

    def __init__(self, config: ModelConfig, dtype: torch.dtype = torch.float32, attention_kind: str = "masked"):
        super().__init__()
        c = self.config = config
        self.dtype, self.attention_kind = dtype, attention_kind
        self.block: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]] = block
        self.head_loss: Callable[..., Tensor] = head_loss

        def normal(*shape: int, std: float) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape) * std)

        self.embedding = normal(c.vocab, c.hidden, std=0.02)
        self.attention = normal(c.layers, 4, c.hidden, c.hidden, std=c.hidden**-0.5)
        self.gate_up = normal(c.layers, c.experts, 2, c.expert_intermediate, c.hidden, std=c.hidden**-0.5)
        self.down = normal(c.layers, c.experts, c.expert_intermediate, c.hidden, std=c.expert_intermediate**-0.5)
        self.router = normal(c.layers, c.experts, c.hidden, std=0.02)
        self.norms = nn.Parameter(torch.ones(c.layers, 4, c.hidden))
        self.final_norm = nn.Parameter(torch.ones(c.hidden))

        half = c.hidden // c.heads // 2
        frequencies = c.rope_theta ** (-torch.arange(half).float() / half)
        angles = torch.outer(torch.arange(c.max_positions).float(), torch.cat((frequencies, frequencies)))
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def compile_parts(self) -> None:
        """One compiled layer, used for all of them, and the compiled head. What will not compile runs as it is."""
        torch._dynamo.config.suppress_errors = True  # with a warning on stderr
        self.block = torch.compile(block, dynamic=False)
        self.head_loss = torch.compile(head_loss, dynamic=False)

    def trunk(self, tokens: Tensor, segments: Segments) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """tokens [T] -> residual stream [T, D], mean balance and z losses, load [L, E]."""
        x = F.embedding(tokens, self.embedding)
        cos, sin = self.cos[segments.positions].unsqueeze(1), self.sin[segments.positions].unsqueeze(1)
        stacks = [self.attention.to(self.dtype), self.gate_up.to(self.dtype), self.down.to(self.dtype)]
        layers = zip(*(w.unbind(0) for w in [*stacks, self.router, self.norms]), strict=True)
        balances, squares, loads = [], [], []
        for weights in layers:
            x, balance, square, load = self.block(
                x, *weights, cos, sin, segments.starts, self.config, self.attention_kind
            )
            balances.append(balance)
            squares.append(square)
            loads.append(load)
        return x, torch.stack(balances).mean(), torch.stack(squares).mean(), torch.stack(loads)

    def logits(self, tokens: Tensor, segments: Segments) -> Tensor:
        """tokens [T] -> [T, V]."""
        x = rms_norm(self.trunk(tokens, segments)[0], self.final_norm, self.config.norm_eps)
        return F.linear(x.to(self.dtype), self.embedding.to(self.dtype)).float()

    def losses(self, tokens: Tensor, targets: Tensor, weights: Tensor, segments: Segments) -> dict[str, Tensor]:
        """`text` in nats a token, `balance` (1 when even), `router_square`, and `load` [L, E]."""
        x, balance, square, load = self.trunk(tokens, segments)
        text = self.head_loss(x, self.final_norm, self.embedding.to(self.dtype), targets, weights, self.config.norm_eps)
        return {"text": text, "balance": balance, "router_square": square, "load": load}
