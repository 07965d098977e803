"""The truth meter as it runs: one text at every k and weighting, and the values that its view draws."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..comparison import Speed
from ..model_info import ModelInfo
from ..request import Message
from ..truth import Score, setting_name, verdict
from .comparing import Comparison, as_value
from .stoppable import Stoppable
from .turn import Job, closing_iterator

if TYPE_CHECKING:  # plots is imported where a figure is drawn: matplotlib takes most of a second to come
    from matplotlib.figure import Figure

KS = (1, 2, 4, 8, 16, 32, 64)
WEIGHTINGS = ("raw", "renormalised", "mass_preserving")


@dataclass(frozen=True)
class Text:
    """What is measured. name: "the reply at k=8"."""

    name: str
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    texts: tuple[str, ...]


class Measurement(Stoppable):
    def __init__(self, text: Text, info: ModelInfo) -> None:
        super().__init__()
        self.text, self.info = text, info
        self.ks = [k for k in KS if k <= info.num_experts]
        self.scores: list[Score] = []
        self.speeds: dict[int, float] = {}

    def run(self, job: Job) -> Generator[str, None, None]:
        if self.state != "waiting":
            return
        with self._running():
            arguments = (self.text.prompt_ids, self.text.token_ids, self.ks, WEIGHTINGS)
            with closing_iterator(job("truth_meter", *arguments)) as results:
                for result in results:
                    if isinstance(result, Score):
                        self.scores.append(result)
                        if not self._stop.is_set():
                            yield self.value()
                    elif isinstance(result, Speed):
                        self.speeds[result.num_experts_per_tok] = result.tokens_per_s
                    if self._stop.is_set():
                        self.stopped = True
                        break
        yield self.value()

    def value(self) -> str:
        if not self.scores:
            return ""
        own = self.scores[0]
        total = len(self.ks) * len(WEIGHTINGS) + (own.num_experts_per_tok not in self.ks)
        doing = ""
        if self.state == "running":
            doing = f"{len(self.scores)} of {total} settings" if len(self.scores) < total else "Measuring speed"
        return as_value({"text": self.text.name, "texts": self.text.texts, "doing": doing, "stopped": self.stopped,
                         "own": own.num_experts_per_tok, "settings": [self._shown(s, own) for s in self.scores]})

    def _shown(self, score: Score, own: Score) -> dict[str, Any]:
        rate, own_rate = (self.speeds.get(s.num_experts_per_tok) for s in (score, own))
        return {"k": score.num_experts_per_tok, "weighting": score.weighting, "name": setting_name(score),
                "mean": score.mean_nll, "total": score.total_nll, "mean_kl": score.mean_kl, "rate": rate,
                "nll": score.nll.round(4).tolist(), "kl": score.kl.round(4).tolist(),
                "verdict": verdict(score, own, rate, own_rate)}

    def figure(self, dark: bool = False) -> Figure:
        """Quality against k and against speed. Raises ValueError while there is nothing to draw."""
        curves = {w.replace("_", "-"): sorted((s.num_experts_per_tok, s.mean_nll) for s in self.scores
                                              if s.weighting == w) for w in WEIGHTINGS}
        from ..plots import quality_curves

        return quality_curves(curves, self.speeds, self.info.default_k, model=self.info.name, dark=dark,
                              num_tokens=len(self.text.texts), what=self.text.name,
                              hardware=f"{self.info.device}, {self.info.dtype}")


@dataclass(frozen=True)
class Opened:
    """A reply of the chat brought to Compare: the conversation it answered, and itself."""

    messages: tuple[Message, ...]
    prompt: str
    text: Text


def texts_of(comparison: Comparison | None, opened: Opened | None) -> list[Text]:
    """What can be measured now: the comparison's replies, and the one brought here."""
    columns = comparison.columns if comparison else []
    return [*(Text(f"the reply at {c.name}", tuple(c.prompt_ids), tuple(c.token_ids), tuple(c.texts))
              for c in columns if c.token_ids), *([opened.text] if opened else [])]
