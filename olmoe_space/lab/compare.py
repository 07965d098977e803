"""Compare: where the replies of one prompt under several settings part, and why.

The replies themselves are rows of one batch (`Engine.stream_together`); here their tokens are read again under each
setting to have the distributions and the experts at the token where they part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from ..comparison import END, Difference, Parting, Speed, partings
from ..engine.engine import Engine
from ..request import RoutingPolicy
from .layer_budget import settled
from .teacher_forced import decode_speeds, last_step

CANDIDATES = 5  # likeliest tokens of each reply that are named


def differences(engine: Engine, prompt: Sequence[int], replies: Sequence[Sequence[int]],
                policies: Sequence[RoutingPolicy]) -> Iterator[Difference | Speed]:
    """Every parting of the replies explained, first to last, and then the speed of each k alone.

    prompt, replies: token ids, a reply with comparison.END behind it if the model ended it. policies: one a reply,
    with an adaptive k settled. A rule's speed hangs on the text; it is not measured.
    """
    policies = [settled(engine, policy) for policy in policies]
    for parting in partings(replies):
        yield explain(engine, prompt, replies, policies, parting)
    yield from decode_speeds(engine, [int(p.num_experts_per_tok) for p in policies if p.rule is None], prompt)


def explain(engine: Engine, prompt: Sequence[int], replies: Sequence[Sequence[int]],
            policies: Sequence[RoutingPolicy], parting: Parting) -> Difference:
    """The common tokens once more under each of the parting replies' settings, as rows of one batch."""
    common = [*prompt, *replies[parting.replies[0]][:parting.position]]
    step = last_step(engine, common, [policies[i] for i in parting.replies])
    probs = torch.softmax(step.logits[:, 0], -1)  # [R, V]
    taken = [replies[i][parting.position] for i in parting.replies]
    ends = set(engine.stop_ids)
    ids = set(probs.topk(min(CANDIDATES, probs.shape[-1]), -1).indices.flatten().tolist())
    ids |= {t for t in taken if t != END}
    if END in taken:
        ids.add(max(ends, key=lambda t: float(probs[:, t].max())))
    means = probs.mean(0)
    order = sorted(ids, key=lambda t: -float(means[t]))
    end_at = next((order.index(t) for t in order if t in ends), -1)
    return Difference(
        parting.position, parting.replies, np.array(order, dtype=np.int64),
        tuple(engine.tokenizer.decode([t]) for t in order), tuple(t in ends for t in order),
        probs[:, order].cpu().numpy(), tuple(end_at if t == END else order.index(t) for t in taken),
        tuple(_working(experts, active) for experts, active in zip(
            step.selected_experts[:, 0].tolist(), step.active_experts[:, 0].tolist(), strict=True)))


def _working(experts: list[list[int]], active: list[int]) -> tuple[tuple[int, ...], ...]:
    """Experts selected in each layer, and how many of them, the first ones, worked -> those."""
    return tuple(tuple(chosen[:k]) for chosen, k in zip(experts, active, strict=True))
