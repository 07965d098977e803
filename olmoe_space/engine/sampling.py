"""Logits -> the next token. Pure functions of one row; the seed lives in the generator that is passed in."""

from __future__ import annotations

import torch
from torch import Tensor


def sample(logits: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:
    """float32 logits [V] -> token id. Temperature 0 is greedy: the first of the largest logits."""
    if temperature == 0:
        return int(logits.argmax())
    scaled = (logits - logits.max()) / max(temperature, 1e-6)  # so that no temperature overflows
    probs, ids = nucleus(torch.softmax(scaled, -1), top_p)
    return int(ids[torch.multinomial(probs, 1, generator=generator)])


def nucleus(probs: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """The smallest set of most probable tokens whose sum reaches top_p (Holtzman et al. 2020, arXiv 1904.09751).

    probs [V] -> probabilities and ids of the set, most probable first; not renormalised. Never empty.
    """
    if top_p >= 1:
        return probs, torch.arange(probs.shape[-1], device=probs.device)
    top, ids = probs.topk(min(256, probs.shape[-1]))  # enough nearly always, and far cheaper than sorting all
    if top.sum() < top_p:
        top, ids = probs.sort(descending=True)
    before = top.cumsum(-1) - top  # mass ahead of each token
    size = max(1, int((before < top_p).sum()))
    return top[:size], ids[:size]
