"""How long one replica takes for a step and for a prompt, read from what `benchmark` printed. Knows nothing of load."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

MEASURED = Path(__file__).resolve().parents[2] / "assets" / "benchmark_h200.json"
MIXED = (4, 8, 16, 32)  # as `benchmark` mixes them


@dataclass(frozen=True)
class ServiceTimes:
    """rows, step_s: seconds of one decode step of so many rows, measured; between them a straight line. prompt_tokens,
    prompt_s: the same of a prompt's forward. hardware: where."""

    rows: tuple[int, ...]
    step_s: tuple[float, ...]
    prompt_tokens: tuple[int, ...]
    prompt_s: tuple[float, ...]
    hardware: str

    def slower(self, factor: float) -> ServiceTimes:
        """Everything takes `factor` times as long."""
        return replace(self, step_s=tuple(factor * s for s in self.step_s),
                       prompt_s=tuple(factor * s for s in self.prompt_s))

    def step(self, rows: int) -> float:
        """Seconds until each of `rows` replies has one more token; past what was measured, in proportion."""
        most = self.rows[-1]
        return self.step_s[-1] * rows / most if rows > most else float(np.interp(rows, self.rows, self.step_s))

    def prompt(self, tokens: int) -> float:
        """Seconds of a prompt's forward, alone; past what was measured, in proportion."""
        most = self.prompt_tokens[-1]
        return (self.prompt_s[-1] * tokens / most if tokens > most
                else float(np.interp(tokens, self.prompt_tokens, self.prompt_s)))


def from_benchmark(file: Path, k: int | None = None) -> ServiceTimes:
    """file: the benchmark's output or its last line alone. k: of every row; None: rows of mixed k, of which one alone
    is the mean of the mixed k. Raises ValueError if the file has no such measurement."""
    try:
        told: dict[str, Any] = json.loads(file.read_text("utf-8").strip().splitlines()[-1])
        decodes = [d for d in told["decode"] if not d["weights"].startswith("int8")]
        prompts = sorted((p["tokens"], p["seconds"]) for p in told["prefill"])
        hardware = str(told["hardware"])
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"{file} is not what `python -m olmoe_space benchmark` prints: {error!r}. "
                         "Save its output and name that file.") from None
    steps: dict[int, list[float]] = {}
    for d in decodes:
        if d["k"] == k or (k is None and d["batch"] == 1 and d["k"] in MIXED):
            steps.setdefault(d["batch"], []).append(d["batch"] / d["tokens_per_s"])
    if not steps or not prompts:
        raise ValueError(f"{file} has no prompts, or no steps at {'mixed k' if k is None else f'k = {k}'}. Measure "
                         "them with `python -m olmoe_space benchmark`.")
    rows = sorted(steps)
    return ServiceTimes(tuple(rows), tuple(sum(steps[r]) / len(steps[r]) for r in rows),
                        tuple(tokens for tokens, _ in prompts), tuple(seconds for _, seconds in prompts), hardware)
