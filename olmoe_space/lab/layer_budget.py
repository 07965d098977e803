"""A fixed budget of experts, shared out among the layers where they change the output least (arXiv 2509.02753).

The k_l minimise the sum over layers and tokens of ||y_l(k_l) - y_l(k)|| with sum k_l = budget, where y_l(k) is the
experts' output of layer l under the model's own rule, at its own k in the difference, each layer reading what it reads
at that k. So a budget of k a layer is met by k in every layer, and the question is where to save or to spend.

Shapes: T tokens, L layers, E experts, H hidden.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..engine.cache import KeyValueCache
from ..engine.engine import Engine
from ..engine.experts import every_output
from ..engine.forward import forward
from ..engine.routing import row_routing
from ..model.structure import OlmoeWeights, weights_of
from ..request import GenerationRequest, RoutingPolicy

CALIBRATION = Path(__file__).resolve().parents[2] / "assets" / "calibration.txt"  # prose, code, sums and speech


@torch.inference_mode()
def layer_errors(engine: Engine, token_ids: list[int]) -> np.ndarray:
    """float64 [L, E]: at [l, k - 1] the sum over tokens of ||y_l(k) - y_l(own k)||, Euclidean."""
    weights = weights_of(engine.model)
    inputs: dict[int, Tensor] = {}

    def watch(name: str, layer: int, value: Tensor) -> None:
        if name == "experts_input":
            inputs[layer] = value[0]  # [T, H]

    own = row_routing([RoutingPolicy(weights.default_k)], weights.num_experts, weights.device)
    ids = torch.tensor([token_ids], device=weights.device)
    with engine.turn:
        step = forward(weights, ids, KeyValueCache(weights, 1, len(token_ids)), [0], own, watch=watch)
    errors = [_errors(inputs[i], step.router_logits[0, :, i], i, weights) for i in range(len(weights.layers))]
    return np.stack(errors)


def _errors(x: Tensor, router_logits: Tensor, layer: int, weights: OlmoeWeights) -> np.ndarray:
    """x [T, H], router_logits float32 [T, E] -> float64 [E]"""
    probs, order = torch.softmax(router_logits, -1).sort(-1, descending=True)
    outputs = every_output(x, weights.layers[layer], weights).float()  # [E, T, H]
    ranked = outputs.gather(0, order.T[..., None].expand_as(outputs))
    y = (ranked * probs.T[..., None]).cumsum(0)  # [E, T, H]: y(1), y(2), ...
    if weights.norm_topk_prob:
        y = y / probs.cumsum(-1).T[..., None]
    return (y - y[weights.default_k - 1]).norm(dim=-1).double().sum(-1).cpu().numpy()


def best_ks(errors: np.ndarray, budget: int, k_min: int, k_max: int) -> tuple[int, ...]:
    """errors [L, E] (at [l, k - 1] what k experts cost in layer l) -> the k_l in [k_min, k_max] that sum to `budget`
    at the least total, by dynamic programming over layers. Raises ValueError for a budget that cannot be met."""
    layers, most = errors.shape[0], min(k_max, errors.shape[1])
    if not layers * k_min <= budget <= layers * most:
        raise ValueError(f"A layer-budget must be from {layers * k_min} to {layers * most} for {layers} layers of "
                         f"{k_min} to {most} experts; got {budget}.")
    least = np.full(budget + 1, np.inf)  # [b]: of the layers so far, which spent b
    least[0] = 0
    chosen = np.zeros((layers, budget + 1), np.int64)
    for layer in range(layers):
        before, least = least, np.full(budget + 1, np.inf)
        for k in range(k_min, min(most, budget) + 1):
            total = np.full(budget + 1, np.inf)
            total[k:] = before[:budget + 1 - k] + errors[layer, k - 1]
            better = total < least
            least[better], chosen[layer, better] = total[better], k
    ks = []
    for layer in reversed(range(layers)):
        ks.append(int(chosen[layer, budget]))
        budget -= ks[-1]
    return tuple(reversed(ks))


@lru_cache(maxsize=2)
def _calibrated(engine: Engine) -> np.ndarray:
    ids = engine.tokenizer(CALIBRATION.read_text("utf-8"), add_special_tokens=False)["input_ids"]
    return layer_errors(engine, list(ids)[:engine.context_length])


def settled(engine: Engine, policy: RoutingPolicy) -> RoutingPolicy:
    """The policy with everything a router needs: a layer-budget is given its ks, found on the calibration text once
    for each engine."""
    if policy.rule is None or policy.rule.is_settled:
        return policy
    ks = best_ks(_calibrated(engine), int(policy.rule.parameter), policy.k_min, policy.k_max)
    return replace(policy, rule=policy.rule.with_ks(ks))


def settled_request(engine: Engine, request: GenerationRequest) -> GenerationRequest:
    return replace(request, routing=settled(engine, request.routing))
