"""The race: one text, teacher-forced under every routing policy at several parameters.

A policy's k is the mean over the layers and the tokens that were read where something was scored. Experts drawn at
random run beside them, as a control: a policy that they match selects nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from ..engine.engine import Engine
from ..model.structure import weights_of
from ..race import FIXED_K, Run
from ..request import RoutingPolicy
from ..rules import ENTROPY, LAYER_BUDGET, RANDOM, RELATIVE_SKIP, TOP_P, TokenRule
from .layer_budget import settled
from .teacher_forced import steps_after
from .truth_meter import token_nll

MOST = 32    # experts, of the largest k in the race: beyond it no policy here has gained
SEED = 0     # of the control's draws
PARAMETERS = {TOP_P: (0.1, 0.2, 0.3, 0.4, 0.5, 0.6), RELATIVE_SKIP: (0.7, 0.5, 0.35, 0.25, 0.15, 0.08),
              ENTROPY: (0.95, 0.9, 0.85, 0.8, 0.7, 0.6)}
FIXED_KS = (8, 1, 2, 4, 6, 12, 16, 32)
SHARES = (0.25, 0.5, 0.75, 1.25, 1.5)  # of what the model spends, for budgets


def entrants(num_layers: int, num_experts: int, own_k: int) -> list[RoutingPolicy]:
    """Every policy that runs, the model's own k first; each family from few experts to many."""
    most = min(MOST, num_experts)
    fixed = [own_k, *(k for k in FIXED_KS if k <= most and k != own_k)]
    budgets = dict.fromkeys(max(num_layers, min(num_layers * most, round(share * num_layers * own_k)))
                            for share in SHARES)
    drawn = dict.fromkeys(k for k in (own_k // 2, own_k, 2 * own_k, 4 * own_k) if 1 <= k <= most)
    ruled = [(name, p) for name, values in PARAMETERS.items() for p in values]
    ruled += [(LAYER_BUDGET, b) for b in budgets] + [(RANDOM, k) for k in drawn]
    return [*(RoutingPolicy(k) for k in fixed),
            *(RoutingPolicy(k_min=1, k_max=most, rule=TokenRule(name, p)) for name, p in ruled)]


def race(engine: Engine, prompt: Sequence[int], reply: Sequence[int],
         policies: Sequence[RoutingPolicy] | None = None) -> Iterator[Run]:
    """Token ids of a prompt (may be empty) and its reply -> a Run of each policy as it is done; None: `entrants`.

    Raises ValueError for a text of which no token stands behind another.
    """
    weights = weights_of(engine.model)
    if policies is None:
        policies = entrants(len(weights.layers), weights.num_experts, weights.default_k)
    tokens, first = [*prompt, *reply], max(1, len(prompt))
    for policy in policies:
        yield _run(engine, tokens, first, settled(engine, policy))


def race_text(engine: Engine, text: str) -> Iterator[Run]:
    """`race` over a text as it stands, without a chat's role tags; its first token is not scored."""
    return race(engine, [], list(engine.tokenizer(text, add_special_tokens=False)["input_ids"]))


def _run(engine: Engine, tokens: list[int], first: int, policy: RoutingPolicy) -> Run:
    nll, active, done = [], [], first
    for step in steps_after(engine, tokens, policy, first, SEED):
        logits = step.logits[0]
        wanted = torch.tensor(tokens[done:done + len(logits)], device=logits.device)
        nll.append(token_nll(torch.log_softmax(logits, -1), wanted).double().cpu().numpy())
        active.append(step.active_experts[0].cpu().numpy())
        done += len(logits)
    name, parameter = (policy.rule.name, policy.rule.parameter) if policy.rule else (
        FIXED_K, int(policy.num_experts_per_tok))
    return Run(name, parameter, np.concatenate(active), np.concatenate(nll))
