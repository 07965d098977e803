"""From progress (0 to 1) to learning rate and stage: warm-up, a long plateau, a linear decay to nothing.

Progress is steps over all steps, or seconds of training over all seconds: a rented machine ends on time, not on steps.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    peak: float = 3e-3
    warmup_steps: int = 200
    decay_share: float = 0.4  # of the run, at its end

    def lr(self, step: int, progress: float) -> float:
        warm = min(1.0, (step + 1) / self.warmup_steps)
        return self.peak * warm * min(1.0, max(0.0, 1 - progress) / self.decay_share)

    def stage(self, progress: float) -> str:
        """A name in mixture.STAGES: what is read while the rate falls is remembered best."""
        return "decay" if progress >= 1 - self.decay_share else "stable"
