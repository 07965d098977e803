"""The truth meter: the same text, teacher-forced at several k and weightings; what each costs in nats.

Negative log-likelihood of a token: -ln p(token | before). KL(P || Q) = sum_v P(v) (ln P(v) - ln Q(v)), with P the
model's own k and weighting: how far the whole distribution has moved (Kullback & Leibler 1951). Shapes: T scored
tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ..comparison import Speed
from ..engine.engine import Engine
from ..model.structure import weights_of
from ..request import RoutingPolicy, Weighting
from ..truth import Score
from .teacher_forced import decode_speeds, logits_after

KS = (1, 2, 4, 8, 16, 32, 64)
WEIGHTINGS: tuple[Weighting, ...] = ("raw", "renormalised", "mass_preserving")


def token_nll(log_probs: Tensor, tokens: Tensor) -> Tensor:
    """log_probs [T, V] (natural logarithms), tokens int64 [T] -> nats [T]."""
    return -log_probs.gather(-1, tokens[:, None])[:, 0]


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(P || Q) in nats for each row: log_p, log_q [T, V] -> [T]; at least 0 but for rounding, which is cut."""
    return (log_p.exp() * (log_p - log_q)).sum(-1).clamp_min(0)


def truth_meter(engine: Engine, prompt: Sequence[int], reply: Sequence[int], ks: Sequence[int] = KS,
                weightings: Sequence[Weighting] = WEIGHTINGS, speed: bool = True) -> Iterator[Score | Speed]:
    """Token ids of a prompt and its reply -> the reply's Score at each k x weighting; the model's own k, raw, comes
    first whether asked for or not. With `speed`, each k's decode speed alone comes last.

    With an empty prompt the reply's first token is not scored: nothing stands before it. ks beyond the model's
    experts are left out.
    """
    weights = weights_of(engine.model)
    own = RoutingPolicy(weights.default_k, "raw")
    fitting = [k for k in dict.fromkeys(ks) if 1 <= k <= weights.num_experts]
    asked = [RoutingPolicy(k, weighting) for weighting in weightings for k in fitting]
    tokens, first = [*prompt, *reply], max(1, len(prompt))
    reference: list[Tensor] = []  # the own k's log-probabilities, in the same pieces as every other's
    for policy in (own, *(p for p in asked if p != own)):
        yield _score(engine, tokens, first, policy, reference)
    if speed:
        yield from decode_speeds(engine, [weights.default_k, *fitting], tokens)


def _score(engine: Engine, tokens: list[int], first: int, policy: RoutingPolicy, reference: list[Tensor]) -> Score:
    fill = not reference
    nll, kl, done = [], [], 0
    for i, logits in enumerate(logits_after(engine, tokens, policy, first)):
        log_probs = torch.log_softmax(logits, -1)
        if fill:
            reference.append(log_probs)
        wanted = torch.tensor(tokens[first + done:first + done + len(logits)], device=logits.device)
        nll.append(token_nll(log_probs, wanted).double().cpu().numpy())
        kl.append(kl_divergence(reference[i], log_probs).double().cpu().numpy())
        done += len(logits)
    return Score(int(policy.num_experts_per_tok), policy.weighting, np.concatenate(nll), np.concatenate(kl))
