"""transformers' own OLMoE at any k: what ours is compared with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


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
