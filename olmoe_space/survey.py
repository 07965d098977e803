"""What is measured of the experts, as plain data fit to cross a process: the routers' work on one text (`Survey`), and
which experts which tokens went to over a sample of texts (`Study`).

Knows nothing of models or pages. Shapes: T tokens, L layers, E experts, K experts a token, G groups of tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

NO_EXPERT = 255  # in selected_experts, where a rule chose fewer than K for a token
LOAD_TOLERANCE = 0.25  # two experts are of equal load if their token counts differ by at most this share


@dataclass(frozen=True)
class Survey:
    """One text as the routers dealt with it.

    pieces: the text of each token. num_experts_per_tok: K, the largest k of a token. selected_experts: uint8 [T, L, K],
    NO_EXPERT where a token had fewer. counts: int64 [L, E], tokens an expert worked on.
    max_over_mean, variation: float64 [L], imbalance of a layer's load. entropy: float64 [L], mean over tokens, nats.
    mass: k -> float64 [L], mean probability of the k most probable experts. pair_counts: int64 [L, E, E], tokens that
    two experts worked on together, N(i, i) = N(i).
    """

    name: str
    pieces: tuple[str, ...]
    num_experts_per_tok: int
    selected_experts: np.ndarray
    counts: np.ndarray
    max_over_mean: np.ndarray
    variation: np.ndarray
    entropy: np.ndarray
    mass: Mapping[int, np.ndarray]
    pair_counts: np.ndarray

    @property
    def mean_k(self) -> float:
        """Experts that worked on a token in a layer, on average over both."""
        return float(self.counts.sum() / (len(self.pieces) * len(self.counts)))

    def co_activation(self, layer: int) -> np.ndarray:
        """N(i, j) / N(i) of one layer: float64 [E, E], the share of i's tokens that j worked on too.

        Not symmetric; 1 on the diagonal, and a row of 0 for an expert that never fired.
        """
        pairs, own = self.pair_counts[layer], self.counts[layer][:, None]
        return np.divide(pairs, own, out=np.zeros(pairs.shape), where=own > 0)

    @property
    def never_fired(self) -> list[list[int]]:
        """Experts of each layer that worked on no token."""
        return [np.flatnonzero(row == 0).tolist() for row in self.counts]


@dataclass(frozen=True)
class Overlap:
    """How alike two texts load the experts: Jensen-Shannon divergence of each layer's loads, bits [L] in [0, 1]."""

    first: str
    second: str
    divergence: np.ndarray


@dataclass(frozen=True)
class RoutedText:
    """A text of the sample with the experts of its tokens.

    token_ids int64 [T]; pieces: their texts; ends int64 [T]: where in `text` each token ends; selected_experts uint8
    [T, L, K].
    """

    text: str
    domain: str
    topic: str
    token_ids: np.ndarray
    pieces: tuple[str, ...]
    ends: np.ndarray
    selected_experts: np.ndarray


@dataclass(frozen=True)
class Shares:
    """Specialisation for one kind of group: share float32 [G, L, E] = N(E, g) / N(g), where N(g) = tokens int64 [G].

    A group's layer sums to K: an expert that took no notice of groups would have its overall share in each of them,
    and one that took no notice of anything K / E.
    """

    what: str
    groups: tuple[str, ...]
    tokens: np.ndarray
    share: np.ndarray

    def strongest(self, group: int) -> tuple[int, int, float]:
        """(layer, expert, share) where a group's share is largest."""
        layer, expert = divmod(int(self.share[group].argmax()), self.share.shape[2])
        return layer, expert, float(self.share[group, layer, expert])


@dataclass(frozen=True)
class LoyalTokens:
    """Vocabulary specialisation N(x -> E) / N(x): the most loyal tokens of every expert, best first.

    pieces, counts int64 [X]: the tokens seen often enough, and how often. best int64 [L, E, n]: which of them;
    share float32 [L, E, n].
    """

    pieces: tuple[str, ...]
    counts: np.ndarray
    best: np.ndarray
    share: np.ndarray


@dataclass(frozen=True)
class Insight:
    """A claim tested. effect: see lab.insights.group_effect. control: mean of the same over shuffled labels; highest:
    the largest of them. p: share of shuffles (and the measurement itself) that reach the effect. units: what was
    shuffled, and how many there were."""

    claim: str
    measure: str
    verdict: str
    effect: float
    control: float
    highest: float
    p: float
    units: int
    shuffled: str

    @property
    def excess(self) -> float:
        return self.effect - self.control


@dataclass(frozen=True)
class Study:
    """The loaded model over the sample. insights: empty until the sample has been read."""

    texts: int
    tokens: int
    num_experts_per_tok: int
    num_experts: int
    shares: tuple[Shares, ...]
    loyal: LoyalTokens
    counts: np.ndarray
    insights: tuple[Insight, ...] = ()

    @property
    def uniform(self) -> float:
        """k / E: the share of tokens of an expert that is like every other."""
        return self.num_experts_per_tok / self.num_experts


def equal_load(counts: np.ndarray, expert: int, seed: int) -> int:
    """Another expert of one layer with about the load of `expert`, drawn by `seed`: a control for what is done to it.

    counts: int [E], tokens each worked on. Drawn among those within LOAD_TOLERANCE of its count; if there is none, the
    nearest is taken.
    """
    if len(counts) < 2:
        raise ValueError("The layer has only one expert; there is no other to compare it with.")
    distance = np.abs(counts.astype(np.float64) - float(counts[expert]))
    distance[expert] = np.inf
    near = np.flatnonzero(distance <= LOAD_TOLERANCE * counts[expert])
    return int(np.random.default_rng(seed).choice(near)) if near.size else int(distance.argmin())


def survey_as_json(survey: Survey) -> dict[str, Any]:
    """Everything of a survey as json knows it."""
    return {"name": survey.name, "text": "".join(survey.pieces), "tokens": len(survey.pieces),
            "k": survey.num_experts_per_tok, "mean_k": round(survey.mean_k, 4), "expert_counts": survey.counts.tolist(),
            "max_over_mean": survey.max_over_mean.round(4).tolist(),
            "coefficient_of_variation": survey.variation.round(4).tolist(),
            "entropy_nats": survey.entropy.round(4).tolist(),
            "mass": {str(k): mass.round(4).tolist() for k, mass in survey.mass.items()},
            "never_fired": survey.never_fired, "pair_counts": survey.pair_counts.tolist()}


def study_as_json(study: Study) -> dict[str, Any]:
    """Everything of a study as json knows it. loyal_tokens: [L][E], each [text, share, occurrences], best first."""
    loyal = study.loyal
    return {
        "texts": study.texts, "tokens": study.tokens, "k": study.num_experts_per_tok, "uniform": study.uniform,
        "shares": [{"what": s.what, "groups": s.groups, "tokens": s.tokens.tolist(), "share": s.share.round(5).tolist()}
                   for s in study.shares],
        "loyal_tokens": [[[[loyal.pieces[i], round(share, 4), int(loyal.counts[i])]
                           for i, share in zip(best, shares, strict=True)]
                          for best, shares in zip(*layer, strict=True)]
                         for layer in zip(loyal.best.tolist(), loyal.share.tolist(), strict=True)],
        "insights": [vars(i) | {"excess": i.excess} for i in study.insights]}
