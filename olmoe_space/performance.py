"""What a benchmark measures, as plain data fit to cross a process; and a whole one as CSV and JSON.

Knows nothing of models or pages. Shapes: L layers, E experts.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Machine:
    """Where it is measured. bandwidth: bytes a second that a large copy read and wrote just then. weight_bytes: of
    all parameters. date: ISO, UTC."""

    hardware: str
    bandwidth: float
    weight_bytes: int
    torch: str
    transformers: str
    date: str


@dataclass(frozen=True)
class KRun:
    """One reply at one k, alone; medians over `repeats` of the same reply.

    seconds: from the request to its last token. tokens_per_s: after the first token. stock_*: the same by
    transformers' own generate on the same weights; None if it was not asked for. bytes_per_token: what one decode
    step must read. peak_bytes: the most memory in use, of the device, or on a CPU of the whole process.
    expert_counts int64 [L, E]: tokens of the reply that each expert worked on. mass, entropy float64 [L]: mean over
    those tokens of the routers' probability that was selected, and of their entropy in nats.
    """

    k: int
    repeats: int
    new_tokens: int
    seconds: float
    first_token_s: float
    tokens_per_s: float
    stock_seconds: float | None
    stock_tokens_per_s: float | None
    active_params: int
    bytes_per_token: float
    peak_bytes: int
    token_ids: tuple[int, ...]
    expert_counts: np.ndarray
    mass: np.ndarray
    entropy: np.ndarray


@dataclass(frozen=True)
class Claim:
    """A claim, what the run measured of the same thing, and one of VERDICTS."""

    topic: str
    claimed: str
    measured: str
    verdict: str


AS_CLAIMED, NOT_SO, TOO_CLOSE, ELSEWHERE = VERDICTS = (
    "as claimed", "not so here", "too close to say", "of another model or machine")


@dataclass
class Benchmark:
    """A run, as far as it has come."""

    model: str
    dtype: str
    own_k: int
    prompt: str
    machine: Machine | None = None
    runs: dict[int, KRun] = field(default_factory=dict)
    claims: Sequence[Claim] = ()

    def rows(self) -> list[dict[str, Any]]:
        """One a k, ascending: what the table shows. Bytes, seconds, tokens a second; relative to the model's own k,
        if that was measured."""
        own = self.runs.get(self.own_k)
        bandwidth = self.machine.bandwidth if self.machine else 0.0
        return [{
            "k": k, "new_tokens": run.new_tokens, "repeats": run.repeats, "seconds": run.seconds,
            "first_token_s": run.first_token_s, "tokens_per_s": run.tokens_per_s,
            "relative_speed": run.tokens_per_s / own.tokens_per_s if own else None,
            "stock_seconds": run.stock_seconds, "stock_tokens_per_s": run.stock_tokens_per_s,
            "limit_tokens_per_s": bandwidth / run.bytes_per_token, "bytes_per_token": run.bytes_per_token,
            "active_params": run.active_params, "peak_bytes": run.peak_bytes, "routing_mass": float(run.mass.mean()),
        } for k, run in sorted(self.runs.items())]

    def to_csv(self) -> str:
        """The rows, each with the machine and the date it was measured on."""
        where = {"model": self.model, "dtype": self.dtype, **(asdict(self.machine) if self.machine else {})}
        rows = [row | where for row in self.rows()]
        file = io.StringIO()
        writer = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return file.getvalue()

    def to_json(self) -> str:
        """Everything: rows, claims, and each k's expert counts [L][E], mass and entropy [L]."""
        routing = {k: {"expert_counts": run.expert_counts.tolist(), "mass": run.mass.round(6).tolist(),
                       "entropy": run.entropy.round(6).tolist()} for k, run in sorted(self.runs.items())}
        return json.dumps({
            "model": self.model, "dtype": self.dtype, "own_k": self.own_k, "prompt": self.prompt,
            "machine": asdict(self.machine) if self.machine else None, "rows": self.rows(),
            "claims": [asdict(claim) for claim in self.claims], "routing": routing})
