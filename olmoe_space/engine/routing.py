"""The router's rule: logits -> which experts work on a token, and with what weight.

k and weighting belong to a row of the batch, so two chats with different settings can share a forward.

Shapes: B rows, N tokens a row, E experts, K the largest k among the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..request import RoutingPolicy


@dataclass(frozen=True)
class RowRouting:
    """The policies of a batch's rows, as the router reads them.

    k_max: the largest k. k: int64 [B, 1, 1], or None when all rows use k_max. weighting: one a row.
    """

    k_max: int
    k: Tensor | None
    weighting: tuple[str, ...]


def row_routing(policies: Sequence[RoutingPolicy], num_experts: int, device: torch.device) -> RowRouting:
    """Policies -> what the router reads. Raises ValueError for a k that this model cannot have."""
    ks = []
    for policy in policies:
        k = policy.num_experts_per_tok
        if not isinstance(k, int):
            raise ValueError("An adaptive policy must be given its k (adaptive.choose) before the engine sees it.")
        if not 1 <= k <= num_experts:
            raise ValueError(f"Active experts (k) must be from 1 to {num_experts}, the experts of a layer; got {k}.")
        ks.append(k)
    mixed = len(set(ks)) > 1
    return RowRouting(max(ks), torch.tensor(ks, device=device).view(-1, 1, 1) if mixed else None,
                      tuple(p.weighting for p in policies))


def select_experts(logits: Tensor, rows: RowRouting, default_k: int, norm_topk_prob: bool) -> tuple[Tensor, Tensor]:
    """router logits [B, N, E] -> weights [B, N, K] in the logits' dtype, experts int64 [B, N, K].

    Softmax over all E in float32, then the k most probable (Muennighoff et al. 2024, arXiv 2409.02060, sec. 2).
    A row with k < K gets weight 0 past its k-th expert, which adds nothing to the sum.
    """
    probs = torch.softmax(logits, -1, dtype=torch.float32)
    width = max(rows.k_max, default_k) if "mass_preserving" in rows.weighting else rows.k_max
    top, experts = probs.topk(width, dim=-1)  # [B, N, width], most probable first
    weights, experts = top[..., :rows.k_max], experts[..., :rows.k_max]
    if rows.k is not None:
        rank = torch.arange(rows.k_max, device=logits.device)
        weights = weights * (rank < rows.k)
    if norm_topk_prob or any(w != "raw" for w in rows.weighting):
        weights = weights * _scale(weights, top[..., :default_k], rows.weighting, norm_topk_prob)
    return weights.to(logits.dtype), experts


def _scale(weights: Tensor, default_top: Tensor, weighting: Sequence[str], norm_topk_prob: bool) -> Tensor:
    """The factor on each token's weights, [B, N, 1].

    A model with norm_topk_prob normalises whatever it selects, so for it all three weightings agree.
    """
    mass = weights.sum(-1, keepdim=True)
    if norm_topk_prob:
        return 1 / mass
    targets = {"raw": lambda: mass, "renormalised": lambda: torch.ones_like(mass),
               "mass_preserving": lambda: default_top.sum(-1, keepdim=True)}
    if len(set(weighting)) == 1:
        return targets[weighting[0]]() / mass
    wanted = torch.stack([targets[name]()[row] for row, name in enumerate(weighting)])
    return wanted / mass
