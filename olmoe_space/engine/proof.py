"""Before the first visitor: does our forward compute this checkpoint, and does k really change it?"""

from __future__ import annotations

from typing import Any

import torch

from ..model.structure import UnknownStructure, weights_of
from ..request import RoutingPolicy
from .cache import KeyValueCache
from .forward import forward
from .routing import row_routing

# ‖ours - transformers'‖ / ‖transformers'‖ over the logits. float32 differs by the order of sums alone (1e-6 seen).
# In 16 bits one rounding near a router's cut can swap the k-th expert for a few tokens.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.1}


@torch.inference_mode()
def prove(model: Any) -> float:
    """Raises UnknownStructure unless, on 12 tokens, our logits at the checkpoint's k equal those of transformers
    and another k gives others. Returns the relative difference between the two k, ‖a - b‖ / ‖a‖.
    """
    weights = weights_of(model)
    ids = torch.arange(12, device=weights.device).view(1, -1) * 37 % weights.embedding.shape[0]

    def logits_at(k: int) -> torch.Tensor:
        cache = KeyValueCache(weights, 1, ids.shape[1])
        routing = row_routing([RoutingPolicy(k)], weights.num_experts, weights.device)
        return forward(weights, ids, cache, [0], routing, all_logits=True).logits

    ours, theirs = logits_at(weights.default_k), model(ids).logits.float()
    error = _relative(ours, theirs)
    if not error <= TOLERANCE[weights.dtype]:
        raise UnknownStructure(
            f"Our forward does not reproduce this checkpoint: relative logit error {error:.2g} at its own "
            f"k={weights.default_k}. Install the transformers version pinned in requirements.txt.")
    other = 1 if weights.default_k > 1 else weights.num_experts
    change = _relative(logits_at(other), ours)
    if not change > 0:
        raise UnknownStructure(f"Changing k from {weights.default_k} to {other} does not change the logits; "
                               "this model's experts are not in use.")
    return change


def _relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())
