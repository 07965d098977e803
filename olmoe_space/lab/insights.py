"""Five things that are said of OLMoE's experts, each measured against the same measurement with its labels shuffled.

The effect of a grouping of tokens (by domain, token, place, kind, topic) is how far the groups' loads lie from the load
of all tokens, as total variation distance:

    effect = mean over layers of  sum over g of  N(g)/N x 1/2 x sum over E of |N(E, g) / (K N(g)) - N(E) / (K N)|

0: every group uses the experts alike; 0.3: 30 % of a group's expert slots would have to go elsewhere to be like all.
Small groups lie apart by chance alone, so the labels are shuffled and the effect taken again, SHUFFLES times (a
permutation test, Fisher 1935). What is shuffled are whole texts, sentences or tokens, whichever carry the label,
since the tokens of one text are no independent witnesses; and only among those that are alike in all else.

Shapes: T tokens, U units, L layers, E experts, G groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..survey import Insight

SHUFFLES = 99          # so that the smallest p is 0.01
SIGNIFICANT = 0.01
CLEAR = 0.05           # an excess over the control that is called clear: 5 % of the expert slots
LEAST_SEEN = 20        # occurrences of a token to be a group of its own
MOST_TOKENS = 100      # of the vocabulary, the most frequent


@dataclass(frozen=True)
class SeenTokens:
    """Of each token int64 [T]: its id, the number of its text and sentence (over all texts), and its labels. -1 in
    topic: none."""

    token_ids: np.ndarray
    text: np.ndarray
    domain: np.ndarray
    topic: np.ndarray
    sentence: np.ndarray
    kind: np.ndarray
    position: np.ndarray
    domains: tuple[str, ...]
    topics: tuple[str, ...]


def group_effect(counts: np.ndarray, tokens: np.ndarray, labels: np.ndarray, num_groups: int) -> float:
    """The effect above. counts: float [U, L, E], how many of a unit's tokens each expert worked on; tokens: [U], how
    many it has; labels: int [U] in [0, G)."""
    member = (labels == np.arange(num_groups)[:, None]).astype(np.float32)  # [G, U]
    load = (member @ counts.reshape(len(counts), -1)).reshape(num_groups, *counts.shape[1:])
    size = member @ tokens.astype(np.float32)  # [G]
    slots = load.sum(-1, keepdims=True)
    distribution = np.divide(load, slots, out=np.zeros_like(load), where=slots > 0)
    overall = load.sum(0) / load.sum((0, 2))[:, None]
    distance = np.abs(distribution - overall).sum(-1) / 2  # [G, L]
    return float((distance.mean(-1) * size).sum() / size.sum())


def units_of(chosen: np.ndarray, unit: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens -> units: chosen bool [T, L, E], unit int [T] -> counts float32 [U, L, E], tokens int64 [U], and the index
    of each unit's first token [U]. Tokens of a unit stand together."""
    _, first = np.unique(unit, return_index=True)
    first = np.sort(first)
    return (np.add.reduceat(chosen, first, axis=0, dtype=np.float32), np.diff(np.append(first, len(unit))), first)


def shuffled(labels: np.ndarray, strata: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """labels [U] in another order, each staying among the units of its stratum [U]."""
    before = np.argsort(strata, kind="stable")
    after = np.lexsort((generator.random(len(labels)), strata))
    mixed = np.empty_like(labels)
    mixed[before] = labels[after]
    return mixed


def permutation_test(claim: str, measure: str, units: str, chosen: np.ndarray, unit: np.ndarray, label: np.ndarray,
                     strata: np.ndarray, shuffles: int = SHUFFLES) -> Insight:
    """One claim. chosen bool [T, L, E]; unit, label, strata int [T], the same label and stratum throughout a unit."""
    counts, tokens, first = units_of(chosen, unit)
    names, labels = np.unique(label[first], return_inverse=True)
    if len(names) < 2:
        return Insight(claim, measure, "not measured: too little was read", 0, 0, 0, 1, len(first), units)
    effect = group_effect(counts, tokens, labels, len(names))
    generator = np.random.default_rng(0)
    chance = np.array([group_effect(counts, tokens, shuffled(labels, strata[first], generator), len(names))
                       for _ in range(shuffles)])
    p = float((1 + (chance >= effect).sum()) / (1 + shuffles))
    return Insight(claim, measure, verdict(effect - float(chance.mean()), p), effect, float(chance.mean()),
                   float(chance.max()), p, len(first), units)


def verdict(excess: float, p: float) -> str:
    if p > SIGNIFICANT:
        return "refuted here: no more than chance"
    return "confirmed" if excess >= CLEAR else "confirmed, but weak"


def insights(chosen: np.ndarray, seen: SeenTokens) -> Iterator[Insight]:
    """The five, in the order in which they are claimed. chosen: bool [T, L, E]."""
    everywhere = np.zeros_like(seen.text)

    def test(claim: str, measure: str, units: str, unit: np.ndarray, label: np.ndarray, strata: np.ndarray,
             keep: np.ndarray) -> Insight:
        if not keep.any():
            return Insight(claim, measure, "not measured: too little was read", 0, 0, 0, 1, 0, units)
        return permutation_test(claim, measure, units, chosen[keep], unit[keep], label[keep], strata[keep])

    each = np.arange(len(seen.text))
    everything = np.ones(len(each), dtype=bool)
    ids, inverse, times = np.unique(seen.token_ids, return_inverse=True, return_counts=True)
    frequent = np.zeros(len(ids), dtype=bool)
    frequent[np.argsort(-times, kind="stable")[:MOST_TOKENS]] = True
    frequent &= times >= LEAST_SEEN
    yield test("Domain-specific content (code, mathematics, science)", "domain of the text",
               "texts", seen.text, seen.domain, everywhere, everything)
    yield test("Vocabulary clusters", f"the token itself, if one of the {int(frequent.sum())} that stand at least "
               f"{LEAST_SEEN} times", "tokens within a text", each, seen.token_ids, seen.text, frequent[inverse])
    yield test("Positional patterns (sequence position)", "place in the text, the first token left out",
               "tokens within a text", each, seen.position, seen.text, seen.position > 0)
    yield test("Syntactic structures (questions, statements, lists)", "kind of sentence, code left out",
               "sentences within a domain", seen.sentence, seen.kind, seen.domain, seen.kind < 3)
    yield test("Semantic topics (technology, history, arts)", "topic of a text of the web domain",
               "texts", seen.text, seen.topic, everywhere, seen.topic >= 0)
