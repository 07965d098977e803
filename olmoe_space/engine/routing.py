"""The router's rule: logits -> which experts work on a token, and with what weight.

The policy belongs to a row of the batch, so that chats with different settings can share a forward: everything that
differs between rows is a tensor with a row for each. Plain policies (one k, no expert scaled) need nothing but k.

Shapes: B rows, N tokens a row, L layers, E experts, K the largest k among the rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..request import RoutingPolicy
from ..rules import ENTROPY, ENTROPY_WIDTH, LAYER_BUDGET, RANDOM, RELATIVE_SKIP, TOP_P


@dataclass(frozen=True)
class RowRouting:
    """The policies of a batch's rows, as the router reads them.

    k_max: the largest k. k: int64 [B, 1, 1], or None when all rows use k_max. weighting: one a row.
    varying: what policies that are not plain need; None when all rows are plain.
    """

    k_max: int
    k: Tensor | None
    weighting: tuple[str, ...]
    varying: Varying | None = None

    @property
    def is_plain(self) -> bool:
        return self.varying is None


@dataclass(frozen=True)
class Varying:
    """What differs from token to token, layer to layer or expert to expert; for every row, plain ones too.

    layer_k: int64 [L, B, 1, 1], the k of rows whose rule does not look at the token. bounds: k_min and k_max, int64
    [B, 1, 1] each. rules: name -> (rows that follow it, bool [B, 1, 1]; their parameter, float32 [B, 1, 1]).
    random: (rows whose experts are drawn, bool [B, 1, 1]; their seeds, int64 [B, 1, 1]), or None if there are none.
    scales: layer -> float32 [B, 1, E], for layers with a scaled expert.
    """

    layer_k: Tensor
    bounds: tuple[Tensor, Tensor]
    rules: dict[str, tuple[Tensor, Tensor]]
    random: tuple[Tensor, Tensor] | None
    scales: dict[int, Tensor]


class Selected(NamedTuple):
    """weights [B, N, K] in the logits' dtype. experts int64 [B, N, K]. active int64 [B, N]: so many of each token's
    experts, the first ones, work on it; those after them have weight 0."""

    weights: Tensor
    experts: Tensor
    active: Tensor


def row_routing(policies: Sequence[RoutingPolicy], num_experts: int, device: torch.device,
                num_layers: int | None = None, seeds: Sequence[int] | None = None) -> RowRouting:
    """Policies -> what the router reads. Raises ValueError for a policy that this model cannot follow.

    num_layers: needed unless all policies are plain. seeds: one a policy, for those that draw experts; else 0.
    """
    ks = [_checked_k(policy, num_experts) for policy in policies]
    mixed = len(set(ks)) > 1
    plain = all(p.is_plain for p in policies)
    return RowRouting(max(ks), torch.tensor(ks, device=device).view(-1, 1, 1) if mixed else None,
                      tuple(p.weighting for p in policies),
                      None if plain else _varying(policies, num_experts, device, num_layers, seeds))


def _checked_k(policy: RoutingPolicy, num_experts: int) -> int:
    k = policy.num_experts_per_tok
    if not isinstance(k, int):
        raise ValueError("An adaptive policy must be given its k (adaptive.choose) before the engine sees it.")
    if policy.rule is not None and not policy.rule.is_settled:
        raise ValueError("A layer-budget must be given its k for each layer (lab.layer_budget) before the engine "
                         "sees it.")
    if not 1 <= k <= num_experts:
        raise ValueError(f"Active experts (k) must be from 1 to {num_experts}, the experts of a layer; got {k}.")
    return k


def _varying(policies: Sequence[RoutingPolicy], num_experts: int, device: torch.device, num_layers: int | None,
             seeds: Sequence[int] | None) -> Varying:
    if num_layers is None:
        raise ValueError("A policy that varies per token, layer or expert needs to know the number of layers.")
    per_row = lambda values, dtype: torch.tensor(values, dtype=dtype, device=device).view(-1, 1, 1)  # noqa: E731
    names = [p.rule.name if p.rule else "" for p in policies]
    parameters = per_row([p.rule.parameter if p.rule else 0.0 for p in policies], torch.float32)
    follows = {name: (per_row([n == name for n in names], torch.bool), parameters) for name in set(names)}
    random = None
    if RANDOM in follows:
        random = follows[RANDOM][0], per_row(list(seeds) if seeds is not None else [0] * len(policies), torch.int64)
    # A row without a rule keeps its k, wherever its bounds for an adaptive one may lie.
    k_min = per_row([p.k_min if p.rule else 1 for p in policies], torch.int64)
    k_max = per_row([p.k_max if p.rule else num_experts for p in policies], torch.int64)
    layer_k = torch.tensor([_layer_ks(p, num_layers) for p in policies], device=device)  # [B, L]
    return Varying(layer_k.T.reshape(num_layers, -1, 1, 1), (k_min, k_max),
                   {name: follows[name] for name in TOKEN_RULES if name in follows}, random,
                   _scales(policies, num_experts, num_layers, device))


def _layer_ks(policy: RoutingPolicy, num_layers: int) -> list[int]:
    if policy.rule is None or policy.rule.name != LAYER_BUDGET:
        return [int(policy.num_experts_per_tok)] * num_layers
    if len(policy.rule.ks) != num_layers:
        raise ValueError(f"The layer-budget has a k for {len(policy.rule.ks)} layers; this model has {num_layers}.")
    return list(policy.rule.ks)


def _scales(policies: Sequence[RoutingPolicy], num_experts: int, num_layers: int,
            device: torch.device) -> dict[int, Tensor]:
    scales: dict[int, Tensor] = {}
    for row, policy in enumerate(policies):
        for layer, expert, factor in policy.expert_scales:
            if layer >= num_layers or expert >= num_experts:
                raise ValueError(f"This model has layers 0 to {num_layers - 1} with experts 0 to {num_experts - 1}; "
                                 f"expert {expert} of layer {layer} cannot be scaled.")
            scales.setdefault(layer, torch.ones(len(policies), 1, num_experts))[row, 0, expert] = factor
    return {layer: factors.to(device) for layer, factors in scales.items()}


def select_experts(logits: Tensor, rows: RowRouting, layer: int, positions: Tensor, default_k: int,
                   norm_topk_prob: bool) -> Selected:
    """router logits [B, N, E] of a layer, positions int64 [B, N] of the tokens in their texts -> Selected.

    Softmax over all E in float32, then the k most probable (Muennighoff et al. 2024, arXiv 2409.02060, sec. 2).
    """
    probs = torch.softmax(logits, -1, dtype=torch.float32)
    varying = rows.varying
    order = probs if varying is None or varying.random is None else _with_draws_first(
        probs, varying.layer_k[layer], *varying.random, layer, positions)
    experts = order.topk(rows.k_max, dim=-1).indices  # [B, N, K], those that may be selected first
    weights = probs.gather(-1, experts)
    rank = torch.arange(rows.k_max, device=logits.device)
    if varying is not None:
        k = _per_token_k(probs, weights, varying, layer)
        weights = weights * (rank < k)
    elif rows.k is not None:
        k = rows.k
        weights = weights * (rank < k)
    else:
        k = rank.new_full((1, 1, 1), rows.k_max)
    if norm_topk_prob or any(w != "raw" for w in rows.weighting):
        weights = weights * _scale(weights, probs, default_k, rows.weighting, norm_topk_prob)
    active = k.expand(*logits.shape[:2], 1)
    if varying is not None and layer in varying.scales:
        weights, experts, active = _scaled(weights, experts, active, varying.scales[layer])
    return Selected(weights.to(logits.dtype), experts, active[..., 0])


def _scale(weights: Tensor, probs: Tensor, default_k: int, weighting: Sequence[str], norm_topk_prob: bool) -> Tensor:
    """The factor on each token's weights, [B, N, 1].

    A model with norm_topk_prob normalises whatever it selects, so for it all three weightings agree.
    """
    mass = weights.sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)  # drawn experts may all have 0
    if norm_topk_prob:
        return 1 / mass
    targets = {"raw": lambda: mass, "renormalised": lambda: torch.ones_like(mass),
               "mass_preserving": lambda: probs.topk(default_k, dim=-1).values.sum(-1, keepdim=True)}
    if len(set(weighting)) == 1:
        return targets[weighting[0]]() / mass
    wanted = torch.stack([targets[name]()[row] for row, name in enumerate(weighting)])
    return wanted / mass


# Rules that look at the token: (probs [B, N, E], the largest of them [B, N, K] most probable first, parameter,
# k_min, k_max [B, 1, 1]) -> k int64 [B, N, 1], yet to be clamped. See `rules` for the formulas and their sources.

def _top_p_k(probs: Tensor, top: Tensor, parameter: Tensor, k_min: Tensor, k_max: Tensor) -> Tensor:
    return 1 + (top.cumsum(-1)[..., :-1] < parameter).sum(-1, keepdim=True)


def _relative_skip_k(probs: Tensor, top: Tensor, parameter: Tensor, k_min: Tensor, k_max: Tensor) -> Tensor:
    return (top >= parameter * top[..., :1]).sum(-1, keepdim=True)


def _entropy_k(probs: Tensor, top: Tensor, parameter: Tensor, k_min: Tensor, k_max: Tensor) -> Tensor:
    share = torch.special.entr(probs).sum(-1, keepdim=True) / math.log(max(2, probs.shape[-1]))
    rise = ((share - parameter) / ENTROPY_WIDTH).clamp(0, 1)
    return (k_min + (k_max - k_min) * rise).round().long()


TOKEN_RULES: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    TOP_P: _top_p_k, RELATIVE_SKIP: _relative_skip_k, ENTROPY: _entropy_k}


def _per_token_k(probs: Tensor, top: Tensor, varying: Varying, layer: int) -> Tensor:
    """int64 [B, N or 1, 1]"""
    k = varying.layer_k[layer]
    for name, (rows, parameter) in varying.rules.items():
        k = torch.where(rows, TOKEN_RULES[name](probs, top, parameter, *varying.bounds), k)
    return k.clamp(*varying.bounds)


def _with_draws_first(probs: Tensor, k: Tensor, rows: Tensor, seeds: Tensor, layer: int,
                      positions: Tensor) -> Tensor:
    """What to sort experts by, [B, N, E]: their probability, but for `rows` k drawn ones come before all others."""
    keys = _random_keys(seeds, layer, positions, probs.shape[-1])
    drawn = keys.argsort(-1).argsort(-1) < k
    return torch.where(rows & ~drawn, probs - 1, probs)


def _random_keys(seeds: Tensor, layer: int, positions: Tensor, num_experts: int) -> Tensor:
    """int64 [B, N, E] that depend on seed, layer, position and expert alone, so that a token's draw is the same
    however its text was cut into forwards: splitmix64's mixing of one counter (Steele et al. 2014)."""
    experts = torch.arange(num_experts, device=positions.device)
    x = seeds
    for part in (torch.full_like(experts[:1], layer), positions[..., None], experts):
        x = _mixed(x + (part + 1) * -7046029254386353131)  # 0x9E3779B97F4A7C15, as int64 wraps
    return x


def _mixed(x: Tensor) -> Tensor:
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        x = (x ^ _shifted(x, shift)) * factor
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Right, bringing in zeros: >> of int64 brings in the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _scaled(weights: Tensor, experts: Tensor, active: Tensor, scales: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Factors on experts' weights; those muted go behind the others and are not counted as active."""
    factors = scales.expand(*experts.shape[:2], -1).gather(-1, experts)
    works = (torch.arange(experts.shape[-1], device=experts.device) < active) & (factors > 0)
    order = works.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    return (weights * factors).gather(-1, order), experts.gather(-1, order), works.sum(-1, keepdim=True)
