"""What memory allows: the bytes a decode step must read, and how fast this device moves bytes.

One token at a time, every weight that takes part is read once and used once, so the memory's speed, not the
processor's, is the limit: tokens/s <= rows x bytes/s / bytes a step.
"""

from __future__ import annotations

import time
from statistics import median

import torch

from ..model.structure import OlmoeWeights

COPY_BYTES = {"cuda": 2**30, "cpu": 2**28}  # larger than any cache
COPY_REPEATS = 9


def bytes_per_step(weights: OlmoeWeights, experts_touched: float, context_tokens: int) -> float:
    """Bytes read to decode one step of a batch: attention, routers, head, the experts touched, the cache.

    experts_touched: expert matrices read, summed over layers (rows that choose the same expert read it once); of one
    row, k x layers. context_tokens: tokens in the cache, summed over rows. Left out, since they are under a thousandth:
    norms, one row of the embedding a token, activations.
    """
    layers = weights.layers
    always = sum(t.nbytes for layer in layers for t in (layer.q_proj, layer.k_proj, layer.v_proj, layer.o_proj,
                                                         layer.router)) + weights.lm_head.nbytes
    expert = (layers[0].gate_up_proj.nbytes + layers[0].down_proj.nbytes) / weights.num_experts
    return always + experts_touched * expert + context_tokens * cache_bytes_per_token(weights)


def bytes_per_token(weights: OlmoeWeights, k: int, context_tokens: int) -> float:
    """Bytes read to decode one token of one row at k experts a layer."""
    return bytes_per_step(weights, k * len(weights.layers), context_tokens)


def cache_bytes_per_token(weights: OlmoeWeights) -> int:
    """Keys and values of one token, all layers."""
    return 2 * len(weights.layers) * weights.num_kv_heads * weights.head_dim * weights.dtype.itemsize


def copy_bandwidth(device: torch.device | str) -> float:
    """Bytes a second that a large copy reads and writes on this device now: the median of a few."""
    kind = torch.device(device).type
    source = torch.ones(COPY_BYTES[kind], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = []
    for turn in range(-1, COPY_REPEATS):  # the first warms up
        began = now(source.device)
        target.copy_(source)
        if turn >= 0:
            seconds.append(now(source.device) - began)
    return 2 * source.numel() / median(seconds)


def now(device: torch.device) -> float:
    """Seconds of a clock, read when the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
