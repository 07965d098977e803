"""A comparison as it runs: one prompt under several settings, and the values that its view draws.

Knows nothing of the page's components or of the model: it is handed `job`, which runs where the model is. A value is
ASCII JSON that only the view's script reads; texts reach the page through textContent alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np

from ..ask import Question
from ..comparison import END, Difference, Speed, partings
from ..events import Event, Finished, Prefilled, Started, Token
from ..model_info import ModelInfo
from .stoppable import Stoppable
from .turn import Job, closing_iterator

UPDATES_PER_S = 5.0  # at most: several texts are read, not watched, and each update costs all of them tokens
WEIGHTS = {"raw": "", "renormalised": "renormalised", "mass_preserving": "mass-preserving"}


class Column:
    """One setting's reply."""

    def __init__(self, question: Question, info: ModelInfo) -> None:
        self.question, self.routing = question, question.request.routing
        self.info, rule = info, self.routing.rule
        self.k = int(self.routing.num_experts_per_tok)
        self.name = " ".join(filter(None, [rule.in_words() if rule else f"k={self.k}",
                                           "adaptive" if question.choice else "", WEIGHTS[self.routing.weighting]]))
        self.prompt_ids: list[int] = []
        self.token_ids: list[int] = []
        self.texts: list[str] = []
        self.notices: tuple[str, ...] = ()
        self.finished: Finished | None = None
        self.alone: float | None = None
        self._worked = 0.0
        self._mass = self._began = self._first = self._last = 0.0

    def add(self, event: Event) -> None:
        if isinstance(event, Started):
            self.notices, self._began = event.notices, time.perf_counter()
        elif isinstance(event, Prefilled):
            self.prompt_ids += event.token_ids
        elif isinstance(event, Token):
            self.token_ids.append(event.token_id)
            self.texts.append(event.text)
            self._last = time.perf_counter()
            self._first = self._first or self._last
            self._worked += float(event.routing.active_experts.mean())
            logits = event.routing.router_logits[0]  # [L, E]
            exp = np.exp(logits - logits.max(-1, keepdims=True))
            chosen = np.take_along_axis(exp, event.routing.selected_experts[0].astype(np.int64), -1)
            self._mass += float(((chosen * event.routing.is_active[0]).sum(-1) / exp.sum(-1)).mean())
        elif isinstance(event, Finished):
            self.finished = event

    @property
    def tokens(self) -> list[int]:
        """The reply as `comparison.partings` reads it."""
        ended = self.finished is not None and self.finished.finish_reason == "stop"
        return [*self.token_ids, END] if ended else self.token_ids

    def shown(self, running: bool) -> dict[str, Any]:
        n, done = len(self.texts), self.finished
        decode = done.decode_s if done else self._last - self._first
        mean_k = self._worked / n if n else None
        return {"name": self.name, "k": mean_k, "varies": self.routing.rule is not None, "texts": self.texts,
                "active": self.info.active_params(self.k if mean_k is None else mean_k),
                "mass": self._mass / n if n else None, "alone": self.alone, "notices": self.notices,
                "rate": (n - 1) / decode if n > 1 and decode > 0 else None,
                "seconds": done.ttft_s + done.decode_s if done else max(0.0, self._last - self._began),
                "ended": done.finish_reason if done else "running" if running else "stopped"}


class Comparison(Stoppable):
    def __init__(self, questions: Sequence[Question], info: ModelInfo, updates_per_s: float) -> None:
        super().__init__()
        self.columns = [Column(q, info) for q in questions]
        self.info, self.seed = info, questions[0].request.sampling.seed
        self.differences: list[Difference] = []
        self._interval, self._due = 1 / min(updates_per_s, UPDATES_PER_S), 0.0

    @property
    def has_replies(self) -> bool:
        return any(c.token_ids for c in self.columns)

    def run(self, job: Job) -> Generator[str, None, None]:
        """Computes; yields values of the view on a clock, and lastly the complete one."""
        if self.state != "waiting":
            return
        with self._running():
            yield from self._replies(job)
            yield self.value("Comparing")
            yield from self._differences(job)
        yield self.value()

    def _replies(self, job: Job) -> Generator[str, None, None]:
        with closing_iterator(job("compare", [c.question.request for c in self.columns])) as events:
            for row, event in events:
                self.columns[row].add(event)
                if self._stop.is_set() and not isinstance(event, Finished):
                    self.stopped = True
                    return
                if time.monotonic() >= self._due:
                    self._due = time.monotonic() + self._interval
                    yield self.value("Writing" if self.has_replies else "Reading the prompt")

    def _differences(self, job: Job) -> Generator[str, None, None]:
        """What differed where; and each k's own speed, unless there is no time for it."""
        replies = [c.tokens for c in self.columns]
        wanted = len(partings(replies))
        if not self.has_replies or (self.stopped and not wanted):
            return
        with closing_iterator(job("differences", self.columns[0].prompt_ids, replies,
                                  [c.routing for c in self.columns])) as results:
            for result in results:
                if isinstance(result, Difference):
                    self.differences.append(result)
                    yield self.value("Measuring speed")
                elif isinstance(result, Speed):
                    for column in self.columns:
                        if column.routing.rule is None and column.k == result.num_experts_per_tok:
                            column.alone = result.tokens_per_s
                if self._stop.is_set() and len(self.differences) >= wanted:
                    return

    def value(self, doing: str = "") -> str:
        parted = partings([c.tokens for c in self.columns])
        marks = [next((p.position for p in parted if i in p.replies), None) for i in range(len(self.columns))]
        return as_value({
            "doing": doing, "stopped": self.stopped, "seed": self.seed, "num_experts": self.info.num_experts,
            "columns": [c.shown(self.state == "running") | {"mark": mark}
                        for c, mark in zip(self.columns, marks, strict=True)],
            "differences": [_shown(d, self.columns) for d in self.differences]})


def _shown(difference: Difference, columns: Sequence[Column]) -> dict[str, Any]:
    first = columns[difference.replies[0]]
    before = first.texts[difference.position - 1] if difference.position else None
    return {"position": difference.position, "replies": difference.replies, "texts": difference.texts,
            "ends": difference.ends, "probs": difference.probs.round(5).tolist(), "taken": difference.taken,
            "experts": difference.experts, "before": before}


def as_value(view: dict[str, Any]) -> str:
    # "<" is escaped because gr.HTML warns of values that hold a script tag.
    return json.dumps(view, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")
