"""A study of the loaded model as it runs: the sample is read domain by domain, each a call of its own, and after each
the shares are those of all texts so far. Stop keeps them.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Any

from ..model_info import ModelInfo
from ..request import RoutingPolicy
from ..survey import RoutedText, Shares, Study
from .stoppable import Stoppable
from .surveying import packed, share_rows
from .turn import Job, closing_iterator

HEAD = ("what", "group", "tokens", "layer", "expert", "share")


class Studying(Stoppable):
    """study: of all texts read so far."""

    def __init__(self, domains: Sequence[str], policy: RoutingPolicy, info: ModelInfo) -> None:
        super().__init__()
        self.domains, self.policy, self.info = tuple(domains), policy, info
        self.study: Study | None = None
        self._texts: list[RoutedText] = []

    def run(self, job: Job) -> Generator[str, None, None]:
        """Computes; yields what it is doing, while `study` grows."""
        if self.state != "waiting":
            return
        with self._running():
            for number, domain in enumerate(self.domains):
                yield f"Reading {domain}: {number} of {len(self.domains)} domains, {len(self._texts)} texts so far"
                self._read(job, domain)
                if self._stop.is_set():
                    break
                self._count(job, with_insights=False)
            self.stopped = self._stop.is_set()
            if self._texts:
                yield "Testing the five claims against shuffled labels"
                self._count(job, with_insights=True)

    def _read(self, job: Job, domain: str) -> None:
        with closing_iterator(job("read_sample", domain, self.policy)) as texts:
            for text in texts:
                self._texts.append(text)
                if self._stop.is_set():
                    return

    def _count(self, job: Job, with_insights: bool) -> None:
        (self.study,) = job("study", self._texts, self.info.num_experts, with_insights)

    def shown(self) -> dict[str, Any] | None:
        return _shown(self.study) | {"stopped": self.stopped} if self.study else None

    def rows(self) -> Iterator[list[Any]]:
        for shares in self.study.shares if self.study else ():
            for group, tokens, share in zip(shares.groups, shares.tokens.tolist(), shares.share, strict=True):
                yield from share_rows(shares.what, group, tokens, share)


def _shown(study: Study) -> dict[str, Any]:
    loyal = study.loyal
    return {"texts": study.texts, "tokens": study.tokens, "k": study.num_experts_per_tok, "uniform": study.uniform,
            "counts": study.counts.tolist(), "shares": [_group(s) for s in study.shares],
            "loyal": {"pieces": loyal.pieces, "counts": loyal.counts.tolist(), "each": loyal.best.shape[2],
                      "best": packed(loyal.best, "<u2"), "share": packed(loyal.share, "<f4")},
            "insights": [vars(i) | {"excess": i.excess} for i in study.insights]}


def _group(shares: Shares) -> dict[str, Any]:
    return {"what": shares.what, "groups": shares.groups, "tokens": shares.tokens.tolist(),
            "share": packed(shares.share, "<f4")}
