"""A benchmark as it runs: one k after the other, each in short pieces, and the values that its view draws."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from ..ask import request_from_fields
from ..model_info import ModelInfo
from ..performance import Benchmark
from ..request import GenerationRequest, whole_number
from ..settings import Settings
from .comparing import as_value
from .stoppable import Stoppable
from .turn import Job, closing_iterator

MAX_KS = 12
MIN_TOKENS, MAX_REPEATS = 8, 20


@dataclass(frozen=True)
class Plan:
    """The same request at each k; repeats of each; whether stock transformers runs beside it."""

    requests: tuple[GenerationRequest, ...]
    repeats: int
    stock: bool


def plan_from_fields(info: ModelInfo, settings: Settings, prompt: Any, ks: Any, new_tokens: Any, repeats: Any,
                     stock: Any) -> Plan:
    """The fields as typed -> a plan; greedy, raw weights. Raises ValueError."""
    wanted = [whole_number(k, "Active experts (k)", 1, info.num_experts) for k in str(ks).replace(",", " ").split()]
    wanted = sorted(set(wanted))
    if not 1 <= len(wanted) <= MAX_KS:
        raise ValueError(f"Give from 1 to {MAX_KS} values of k, with commas between them; got {len(wanted)}.")
    tokens = whole_number(new_tokens, "New tokens", MIN_TOKENS, settings.max_new_tokens)
    requests = tuple(request_from_fields(prompt, info=info, settings=settings, num_experts_per_tok=k, temperature=0,
                                         top_p=1, max_new_tokens=tokens, seed=0).request for k in wanted)
    return Plan(requests, whole_number(repeats, "Repeats", 1, MAX_REPEATS), bool(stock))


class Benchmarking(Stoppable):
    """seconds: how long it has run."""

    def __init__(self, plan: Plan, info: ModelInfo) -> None:
        super().__init__()
        self.plan, self.info, self.seconds = plan, info, 0.0
        self.result = Benchmark(info.name, info.dtype, info.default_k, plan.requests[0].prompt)

    def run(self, job: Job) -> Generator[str, None, None]:
        """Measures; yields values of the view after every repeat, and lastly the complete one."""
        if self.state != "waiting":
            return
        began = time.monotonic()
        with self._running():
            try:
                for doing in self._steps(job):
                    self.seconds = time.monotonic() - began
                    if self._stop.is_set():
                        self.stopped = True
                        break
                    yield self.value(doing)
            finally:
                self.seconds = time.monotonic() - began
        yield self.value()

    def _steps(self, job: Job) -> Generator[str, None, None]:
        """What is being done, said before each piece of it."""
        result, plan = self.result, self.plan
        yield "Measuring the memory’s speed"
        with closing_iterator(job("machine", self.info)) as found:
            result.machine = next(found)
        for i, request in enumerate(plan.requests):
            k = int(request.routing.num_experts_per_tok)
            where = f"k={k}, {i + 1} of {len(plan.requests)}"
            yield f"{where}: warm-up"
            with closing_iterator(job("speed_at_k", self.info, request, plan.repeats, plan.stock)) as runs:
                for run in runs:
                    result.runs[k] = run
                    if result.runs[k].repeats < plan.repeats:
                        yield f"{where}: repeat {result.runs[k].repeats + 1} of {plan.repeats}"
        yield "Checking the claims"
        with closing_iterator(job("claims", self.info, result.machine, list(result.runs.values()))) as claims:
            result.claims = next(claims)

    def value(self, doing: str = "") -> str:
        place = self.result.machine
        return as_value({
            "doing": doing, "stopped": self.stopped, "seconds": round(self.seconds, 1), "own": self.result.own_k,
            "where": f"{self.result.model}, {self.result.dtype} · {place.hardware} · copy "
                     f"{place.bandwidth / 1e9:,.1f} GB/s · torch {place.torch}, transformers {place.transformers} · "
                     f"{place.date}" if place else "",
            "done": sum(run.repeats for run in self.result.runs.values()),
            "of": len(self.plan.requests) * self.plan.repeats,
            "rows": self.result.rows(), "claims": [vars(claim) for claim in self.result.claims]})
