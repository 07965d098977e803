"""What the routers did, as functions of arrays: load and its imbalance, mass, pairs that work together, overlap.

Shapes: T tokens, L layers, E experts, K experts selected for a token. Formulas of specialisation and co-activation:
Muennighoff et al. 2024 (OLMoE, arXiv 2409.02060, section 5).
"""

from __future__ import annotations

import numpy as np

from ..survey import NO_EXPERT, Survey
from ..trace import Phase, RoutingTrace

MASS_AT = (8, 16, 32)


def expert_counts(selected: np.ndarray, num_experts: int) -> np.ndarray:
    """selected [T, L, K] -> int64 [L, E]: tokens that each expert worked on. A layer sums to T x K."""
    return one_hot(selected, num_experts).sum(0, dtype=np.int64)


def one_hot(selected: np.ndarray, num_experts: int) -> np.ndarray:
    """selected [T, L, K] -> bool [T, L, E]: whether an expert worked on a token. Entries of NO_EXPERT are none."""
    chosen = np.zeros((*selected.shape[:2], num_experts + 1), dtype=bool)
    np.put_along_axis(chosen, np.minimum(selected, num_experts).astype(np.int64), True, axis=-1)
    return chosen[..., :-1]


def max_over_mean(counts: np.ndarray) -> np.ndarray:
    """counts [L, E] -> [L]: the busiest expert's load over the mean. 1: all alike; E / K: the same K for every token.

    0 where nothing was counted.
    """
    mean = counts.mean(-1)
    return np.divide(counts.max(-1), mean, out=np.zeros_like(mean), where=mean > 0)


def coefficient_of_variation(counts: np.ndarray) -> np.ndarray:
    """counts [L, E] -> [L]: standard deviation of the loads over their mean (Shazeer et al. 2017, arXiv 1701.06538, as
    its square in their importance loss). 0: all alike; 0 where nothing was counted."""
    mean = counts.mean(-1)
    return np.divide(counts.std(-1), mean, out=np.zeros_like(mean), where=mean > 0)


def mass_at(probs: np.ndarray, ks: tuple[int, ...] = MASS_AT) -> dict[int, np.ndarray]:
    """Router probabilities [T, L, E] -> k -> float [T, L]: the sum of the k largest. ks beyond E are left out."""
    cumulative = np.cumsum(-np.sort(-probs.astype(np.float64), axis=-1), axis=-1)
    return {k: cumulative[..., k - 1] for k in ks if k <= probs.shape[-1]}


def pair_counts(selected: np.ndarray, num_experts: int) -> np.ndarray:
    """selected [T, L, K] -> int64 [L, E, E]: N(i, j), tokens that i and j both worked on; N(i, i) = N(i).

    All pairs of a token's K experts count, not only the first two.
    """
    chosen = one_hot(selected, num_experts).transpose(1, 0, 2).astype(np.float32)  # exact up to 2^24 tokens
    return np.rint(chosen.transpose(0, 2, 1) @ chosen).astype(np.int64)


def jensen_shannon(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Loads [L, E], [L, E] -> bits [L]: JS(P, Q) = H((P + Q) / 2) - (H(P) + H(Q)) / 2 of the loads as distributions
    (Lin 1991, IEEE Trans. Inf. Theory 37). 0: the same; 1: no expert in common.

    Raises ValueError for a text without tokens and for loads of different models.
    """
    if first.shape != second.shape:
        raise ValueError(f"Loads can be compared only for one model; got {first.shape} and {second.shape}.")
    if not (first.sum(-1).all() and second.sum(-1).all()):
        raise ValueError("A text without tokens loads no expert; there is nothing to compare.")
    p, q = (load / load.sum(-1, keepdims=True) for load in (first, second))
    return np.clip(_entropy_bits((p + q) / 2) - (_entropy_bits(p) + _entropy_bits(q)) / 2, 0, 1)


def survey_of(trace: RoutingTrace, name: str, phase: Phase = "all") -> Survey:
    """A trace, or one phase of it, told in numbers. Raises ValueError if it has no token."""
    selected = np.where(trace.is_active, trace.selected_experts, NO_EXPERT)[trace.tokens(phase)].astype(np.uint8)
    if not len(selected):
        raise ValueError("There is no token to survey. Write something first.")
    counts = trace.expert_counts(phase)
    return Survey(
        name, trace.texts[trace.tokens(phase)], trace.num_experts_per_tok, selected, counts, max_over_mean(counts),
        coefficient_of_variation(counts), trace.routing_entropy(phase).mean(0, dtype=np.float64),
        {k: mass.mean(0) for k, mass in mass_at(trace.router_probs(phase)).items()},
        pair_counts(selected, trace.num_experts))


def _entropy_bits(p: np.ndarray) -> np.ndarray:
    return -(p * np.log2(np.where(p > 0, p, 1))).sum(-1)
