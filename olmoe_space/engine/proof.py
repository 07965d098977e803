"""Before the first visitor: does our forward compute this checkpoint, and does k really change it?"""

from __future__ import annotations

from typing import Any

import torch

from ..model.structure import OlmoeWeights, UnknownStructure, weights_of
from ..request import RoutingPolicy, SamplingParams
from .cache import KeyValueCache
from .forward import forward
from .kernels import Kernels, LaneRequest
from .routing import row_routing
from .threads import threads_for

# ‖ours - transformers'‖ / ‖transformers'‖ over the logits. float32 differs by the order of sums alone (1e-6 seen).
# In 16 bits one rounding near a router's cut can swap the k-th expert for a few tokens.
# 8-bit weights need no tolerance of their own: transformers computes with the same dequantised matrices (model/int8).
# What is proved is that we compute this model, not that rounding cost nothing; that is measured on text (`quality`).
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.1}


@torch.inference_mode()
def prove(model: Any, kernels: Kernels | None = None) -> float:
    """Raises UnknownStructure unless, on 12 tokens, our logits at the checkpoint's k equal those of transformers
    and another k gives others; and unless `kernels` give those of transformers after a prompt of these tokens and
    after the token that they draw from it. Returns the relative difference between the two k, ‖a - b‖ / ‖a‖.
    """
    weights = weights_of(model)
    with threads_for(weights, 1):  # with a thread a core, a busy machine took 28 s where it takes 2
        return _proved(model, weights, kernels)


def _proved(model: Any, weights: OlmoeWeights, kernels: Kernels | None) -> float:
    ids = torch.arange(12, device=weights.device).view(1, -1) * 37 % weights.embedding.shape[0]

    def logits_at(k: int) -> torch.Tensor:
        cache = KeyValueCache(weights, 1, ids.shape[1])
        routing = row_routing([RoutingPolicy(k)], weights.num_experts, weights.device)
        return forward(weights, ids, cache, [0], routing, all_logits=True).logits

    ours, theirs = logits_at(weights.default_k), model(ids).logits.float()
    _same(ours, theirs, weights, "Our forward")
    other = 1 if weights.default_k > 1 else weights.num_experts
    change = _relative(logits_at(other), ours)
    if not change > 0:
        raise UnknownStructure(f"Changing k from {weights.default_k} to {other} does not change the logits; "
                               "this model's experts are not in use.")
    if kernels is not None:
        _prove_kernels(model, kernels, ids, weights)
    return change


def _prove_kernels(model: Any, kernels: Kernels, ids: torch.Tensor, weights: OlmoeWeights) -> None:
    request = LaneRequest(ids.shape[1] + 1, RoutingPolicy(weights.default_k), SamplingParams(temperature=0), 0)
    with kernels.lanes([request]) as [lane]:
        kernels.prefill(lane, ids[0].tolist())
        prompt_logits = lane.logits
        [step] = kernels.step([lane], frozenset())
        if isinstance(step, Exception):
            raise step
        theirs = model(torch.cat([ids, ids.new_tensor([[step.token_id]])], 1)).logits[0].float()
        _same(prompt_logits, theirs[-2], weights, f"A prompt through {kernels.name}")
        _same(lane.logits, theirs[-1], weights, f"A decode step through {kernels.name}")


def _same(ours: torch.Tensor, theirs: torch.Tensor, weights: OlmoeWeights, who: str) -> None:
    error = _relative(ours, theirs)
    if not error <= TOLERANCE[weights.dtype]:
        raise UnknownStructure(
            f"{who} does not reproduce this checkpoint: relative logit error {error:.2g} at its own "
            f"k={weights.default_k}. Install the versions pinned in requirements.txt.")


def _relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())
