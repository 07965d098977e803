"""A given text under a given routing: what the model would have said at every place of it.

Nothing is generated. Shapes: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from statistics import quantiles

import torch
from torch import Tensor

from ..comparison import Speed
from ..engine.cache import KeyValueCache
from ..engine.engine import Engine
from ..engine.forward import StepOutput, forward
from ..engine.routing import row_routing
from ..model.structure import weights_of
from ..request import RoutingPolicy

CHUNK = 256     # tokens a forward; between two of them chats take their turn
ROUNDS = 20     # of the speed measurement: a token of each k in turn, so that a noisy machine is noisy for all
CONTEXT = 32    # tokens in the cache while speed is measured


def logits_after(engine: Engine, token_ids: Sequence[int], policy: RoutingPolicy, first: int) -> Iterator[Tensor]:
    """Logits float32 [n, V], in pieces, from which token_ids[first:] would be drawn; first is at least 1."""
    return (step.logits[0] for step in steps_after(engine, token_ids, policy, first))


def steps_after(engine: Engine, token_ids: Sequence[int], policy: RoutingPolicy, first: int,
                seed: int = 0) -> Iterator[StepOutput]:
    """The steps (B = 1, logits of every token), in pieces, from which token_ids[first:] would be drawn; first is at
    least 1. seed: of experts drawn at random."""
    if not 1 <= first < len(token_ids):
        raise ValueError("There is nothing to measure: a token can be scored only behind another.")
    if len(token_ids) > engine.context_length + 1:
        raise ValueError(f"The text has {len(token_ids):,} tokens; this model's context holds "
                         f"{engine.context_length:,}. Shorten it.")
    weights = weights_of(engine.model)
    routing = row_routing([policy], weights.num_experts, weights.device, len(weights.layers), [seed])
    inputs = torch.tensor([list(token_ids[:-1])], device=weights.device)
    cache = KeyValueCache(weights, 1, inputs.shape[1])
    for scored, part in ((False, inputs[:, :first - 1]), (True, inputs[:, first - 1:])):
        for chunk in part.split(CHUNK, 1):
            if chunk.shape[1]:
                with engine.turn:
                    step = forward(weights, chunk, cache, [0], routing, all_logits=scored)
                if scored:
                    yield step


def last_step(engine: Engine, token_ids: Sequence[int], policies: Sequence[RoutingPolicy]) -> StepOutput:
    """The same tokens under each policy, as rows of one batch -> the last token's step: logits [B, 1, V], N = 1."""
    weights = weights_of(engine.model)
    routing = row_routing(policies, weights.num_experts, weights.device, len(weights.layers))
    rows = list(range(len(policies)))
    ids = torch.tensor([list(token_ids)] * len(rows), device=weights.device)
    cache = KeyValueCache(weights, len(rows), ids.shape[1])
    for chunk in ids.split(CHUNK, 1):
        with engine.turn:
            step = forward(weights, chunk, cache, rows, routing)
    return StepOutput(step.logits, step.router_logits[:, -1:], step.selected_experts[:, -1:],
                      step.routing_weights[:, -1:], step.active_experts[:, -1:])


def decode_speeds(engine: Engine, ks: Sequence[int], token_ids: Sequence[int]) -> list[Speed]:
    """Tokens a second of one request alone at each k: from the lower quartile of the seconds of ROUNDS
    steps, each k in turn (what else runs on the machine can only slow a step down).

    token_ids: any text; its tokens are fed again and again behind a context of at most CONTEXT of them.
    """
    weights = weights_of(engine.model)
    ids = torch.tensor([list(token_ids)], device=weights.device)
    context = ids[:, :CONTEXT]
    runs = {}
    for k in dict.fromkeys(ks):
        routing = row_routing([RoutingPolicy(k)], weights.num_experts, weights.device)
        cache = KeyValueCache(weights, 1, context.shape[1] + ROUNDS + 1)
        with engine.turn:
            forward(weights, context, cache, [0], routing)
        runs[k] = (routing, cache)
    seconds: dict[int, list[float]] = {k: [] for k in runs}
    for number in range(-1, ROUNDS):  # the first warms up
        for k, (routing, cache) in runs.items():
            at = (number + 1) % ids.shape[1]
            with engine.turn:
                began = _now(weights.device)
                forward(weights, ids[:, at:at + 1], cache, [0], routing)
                if number >= 0:
                    seconds[k].append(_now(weights.device) - began)
    return [Speed(k, 1 / quantiles(times)[0]) for k, times in seconds.items()]


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
