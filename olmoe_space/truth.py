"""What a text costs at a k: the truth meter's results, as plain data fit to cross a process, and their one line.

Knows nothing of models or pages. Natural logarithms throughout: nats. Shapes: T scored tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Score:
    """One text, teacher-forced at one k and weighting.

    nll float64 [T]: -ln p(token | the tokens before it), nats. kl float64 [T]: KL(p at the model's own k || p here)
    over the whole vocabulary, nats, at the same places.
    """

    num_experts_per_tok: int
    weighting: str
    nll: np.ndarray
    kl: np.ndarray

    @property
    def total_nll(self) -> float:
        return float(self.nll.sum())

    @property
    def mean_nll(self) -> float:
        return float(self.nll.mean()) if self.nll.size else math.nan

    @property
    def mean_kl(self) -> float:
        return float(self.kl.mean()) if self.kl.size else math.nan

    @property
    def perplexity(self) -> float:
        return math.exp(min(700.0, self.mean_nll))


def joined(scores: Iterable[Score]) -> Score:
    """Scores of several texts at one setting -> of all of them together."""
    parts = list(scores)
    if len({(s.num_experts_per_tok, s.weighting) for s in parts}) != 1:
        raise ValueError("Only scores of one k and weighting can be joined.")
    return Score(parts[0].num_experts_per_tok, parts[0].weighting,
                 np.concatenate([s.nll for s in parts]), np.concatenate([s.kl for s in parts]))


def verdict(score: Score, own: Score, speed: float | None = None, own_speed: float | None = None,
            what: str = "this text") -> str:
    """One sentence of what `score` costs against `own`, the model's own k: nats a token and speed, nothing else.

    speed, own_speed: tokens a second at the two k, or None if they were not measured.
    """
    name = setting_name(score)
    if (score.num_experts_per_tok, score.weighting) == (own.num_experts_per_tok, own.weighting):
        rate = f" and decodes {own_speed:.3g} tokens/s" if own_speed else ""
        return f"On {what} {name}, the model's own, costs {own.mean_nll:.2f} nats a token{rate}."
    change = score.mean_nll - own.mean_nll
    if abs(change) < 0.0005:
        cost = "costs the same to 0.001 nats a token"
    else:
        digits = 2 if abs(change) > 0.0495 else 3
        cost = f"{'costs +' if change > 0 else 'saves '}{abs(change):.{digits}f} nats a token"
    return f"On {what} {name} {cost}{_pace(speed, own_speed)}, against the model's own k={own.num_experts_per_tok}."


def _pace(speed: float | None, own_speed: float | None) -> str:
    if not speed or not own_speed:
        return ""
    ratio = own_speed / speed
    if 0.95 < ratio < 1.05:
        return " at the same speed to 5 %"
    return f" and is {ratio:.1f} × slower" if ratio > 1 else f" and is {1 / ratio:.1f} × faster"


def setting_name(score: Score) -> str:
    """k=16, or k=16 renormalised."""
    weights = "" if score.weighting == "raw" else " " + score.weighting.replace("_", "-")
    return f"k={score.num_experts_per_tok}{weights}"


def find(scores: Sequence[Score], k: int, weighting: str = "raw") -> Score | None:
    return next((s for s in scores if (s.num_experts_per_tok, s.weighting) == (k, weighting)), None)
