"""transformers' own OLMoE at any k: what ours is compared with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import CompileConfig, StoppingCriteria, StoppingCriteriaList

from .limits import now


@dataclass(frozen=True)
class Recipe:
    """A way to run stock `generate`. compile_cost: what it costs before the first token, in words; "" if nothing.

    One that compiles does so for every k and batch size, so it is measured for one row only.
    """

    name: str
    compile_cost: str
    experts: str | None = None  # the experts implementation, or None for what the model has
    options: dict[str, Any] = field(default_factory=dict)  # of generate


RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (
    Recipe("generate", ""),
    Recipe("static", "tens of seconds for every k", "batched_mm",
           {"cache_implementation": "static"}),
    Recipe("max-autotune", "about a minute for every k; the fastest stock recipe known",
           "batched_mm", {"cache_implementation": "static", "compile_config": CompileConfig(mode="max-autotune")}),
)}


@contextmanager
def stock_at(model: Any, k: int) -> Iterator[Any]:
    """The loaded model as transformers computes it at `k`, set where its routers keep it, for the `with` block.

    Bit-equal to a model built with num_experts_per_tok=k. Shared by everyone who uses the model: only for
    measurements that have it to themselves.
    """
    routers = [layer.mlp.gate for layer in model.model.layers]
    before = [router.top_k for router in routers]
    try:
        for router in routers:
            router.top_k = k
        yield model
    finally:
        for router, value in zip(routers, before, strict=True):
            router.top_k = value


@contextmanager
def _experts(model: Any, implementation: str | None) -> Iterator[None]:
    if implementation is None:
        yield
        return
    before = model.get_experts_implementation()
    model.set_experts_implementation(implementation)
    try:
        yield
    finally:
        model.set_experts_implementation(before)


def decode_seconds(model: Any, ids: Tensor, k: int, new_tokens: int, recipe: Recipe) -> tuple[float, float]:
    """Greedy `generate` behind ids [B, N] -> seconds to the first token, seconds a step after it (a token a row)."""
    clock = _Clock()
    with stock_at(model, k), _experts(model, recipe.experts):
        began = now(ids.device)
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, min_new_tokens=new_tokens,
                       do_sample=False, stopping_criteria=StoppingCriteriaList([clock]), **recipe.options)
    return clock.times[0] - began, (clock.times[-1] - clock.times[0]) / (len(clock.times) - 1)


class _Clock(StoppingCriteria):
    """Asked after every token whether to stop: notes the time and says no. `generate` waits for the device at each
    token anyway, to see whether all rows have ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        self.times.append(now(input_ids.device))
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


@torch.inference_mode()
def prefill_seconds(model: Any, ids: Tensor, k: int) -> float:
    """One forward over ids [B, N] with a cache and the head on the last token."""
    with stock_at(model, k):
        began = now(ids.device)
        model(ids, use_cache=True, logits_to_keep=1)
        return now(ids.device) - began
