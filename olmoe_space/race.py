"""A race of routing policies over one text: what each spent, what the text cost under it, and who is ahead.

Plain data fit to cross a process; knows nothing of models or pages. Natural logarithms: nats. Shapes: T scored tokens,
R runs.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .rules import RANDOM

FIXED_K = "fixed k"
CONTROL = RANDOM  # the family that no policy should fail to beat


@dataclass(frozen=True)
class Run:
    """One policy on the text.

    family: "fixed k" or the rule's name; parameter: its k, P, beta, start or budget. active uint8 [T, L]: how many
    experts worked where each scored token was predicted. nll float64 [T]: -ln p(token | the tokens before it), nats.
    """

    family: str
    parameter: float
    active: np.ndarray
    nll: np.ndarray

    @property
    def name(self) -> str:
        """"k=8", "top-p 0.4" """
        return f"k={self.parameter:g}" if self.family == FIXED_K else f"{self.family} {self.parameter:g}"

    @property
    def mean_k(self) -> float:
        """Experts that worked on a token in a layer, mean over both."""
        return float(self.active.mean())

    @property
    def mean_nll(self) -> float:
        return float(self.nll.mean())


def pareto_front(runs: Sequence[Run]) -> list[bool]:
    """Whether no other run costs at most as many nats with at most as many experts, and less of one of them."""
    points = [(r.mean_k, r.mean_nll) for r in runs]
    return [not any(k <= own_k and nll <= own_nll and (k, nll) != (own_k, own_nll) for k, nll in points)
            for own_k, own_nll in points]


def own_run(runs: Sequence[Run], own_k: int) -> Run | None:
    return next((r for r in runs if r.family == FIXED_K and r.parameter == own_k), None)


def verdict(runs: Sequence[Run], own_k: int) -> str:
    """What the race says, in one line: the cheapest run that costs no more than the model's own k, and how the control
    fared. "" while the own k has not run."""
    own = own_run(runs, own_k)
    if own is None:
        return ""
    as_good = [r for r in runs if r is not own and r.mean_nll <= own.mean_nll and r.mean_k < own.mean_k]
    parts = [f"On this text the model's own k={own_k} costs {own.mean_nll:.3f} nats a token."]
    if as_good:
        best = min(as_good, key=lambda r: (r.mean_k, r.mean_nll))
        parts.append(f"{best.name} costs {best.mean_nll:.3f} with {best.mean_k:.2f} experts: "
                     "fewer, and no more nats.")
    else:
        parts.append("No run with fewer experts costs as little.")
    control = [r for r in runs if r.family == CONTROL]
    if control:
        nearest = min(control, key=lambda r: abs(r.mean_k - own.mean_k))
        parts.append(f"{nearest.parameter:g} experts drawn at random: {nearest.mean_nll - own.mean_nll:+.3f} nats.")
    return " ".join(parts)


def as_rows(runs: Sequence[Run], own_k: int) -> list[dict[str, Any]]:
    """One plain dict a run, in the order of the race. change_nll: against the model's own k; None before it has run."""
    own = own_run(runs, own_k)
    return [{"policy": run.name, "family": run.family, "parameter": run.parameter, "tokens": int(run.nll.size),
             "mean_k": round(run.mean_k, 4), "mean_nll": round(run.mean_nll, 6),
             "change_nll": None if own is None else round(run.mean_nll - own.mean_nll, 6), "on_front": ahead}
            for run, ahead in zip(runs, pareto_front(runs), strict=True)]


def as_csv(runs: Sequence[Run], own_k: int) -> str:
    rows = as_rows(runs, own_k)
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def as_table(runs: Sequence[Run], own_k: int) -> str:
    """For the eye: fewest experts first, * where nothing else is ahead."""
    rows = sorted(as_rows(runs, own_k), key=lambda r: (r["mean_k"], r["mean_nll"]))
    lines = [f"{'policy':<22}{'mean k':>8}{'nats/token':>12}{'change':>9}"]
    lines += [f"{r['policy']:<22}{r['mean_k']:>8.2f}{r['mean_nll']:>12.4f}"
              f"{'' if r['change_nll'] is None else format(r['change_nll'], '+.4f'):>9}{' *' if r['on_front'] else ''}"
              for r in rows]
    return "\n".join([*lines, "* nothing else costs as little with as few experts"])
