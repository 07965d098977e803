"""Speed of the engine, as the page uses it, against stock transformers and against what memory allows: one run, one
machine.

Everything is warmed up, repeated in turns (so that a noisy machine is noisy for all) and told by its median. Ours is
measured where its events arrive: from the moment when every row of a batch has its first token until the first row
has its last. Stock likewise, from its first token to its last.

Nothing here knows the command line; `benchmark` yields a record after each measurement, so that a run that is stopped
keeps what it has.
"""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice, pairwise
from statistics import mean, median
from typing import Any

import torch

from ..conversation import encode
from ..engine.engine import Engine
from ..engine.kernels import LaneRequest
from ..events import Event, Prefilled, Started, Token
from ..model.memory import peak_bytes, reset_peak
from ..model.structure import weights_of
from ..model_info import ModelInfo
from ..request import GenerationRequest, Message, RoutingPolicy, SamplingParams
from .agreement import Agreement, agreement
from .benchmark_records import Chats, Decode, Plan, Prefill, Record, Tracing
from .limits import bytes_per_step, now
from .quality import HELD_OUT, read_texts
from .stock import Recipe, decode_seconds, prefill_seconds

PROMPT_TOKENS = 128  # before what is decoded
MIXED = (4, 8, 16, 32)  # the k of a mixed batch's rows, in turn

Say = Callable[[str], None]
"""Told, in a few words, what is being measured now."""


def benchmark(engine: Engine, info: ModelInfo, plan: Plan, bandwidth: float, say: Say) -> Iterator[Record]:
    """The plan's measurements, one after the other. bandwidth: bytes a second of this device.

    Has the engine to itself: stock runs on the same weights. Raises ValueError for a k that the model cannot have.
    """
    bench = _Bench(engine, info, plan, bandwidth, say)
    yield from decode(engine, info, plan, bandwidth, say)
    for tokens in plan.prefill:
        if tokens + 1 <= info.context_length:
            yield bench.prefill(tokens)
    yield bench.tracing()
    if plan.chats > 1:
        yield bench.chats_at_once()
    if plan.agreement:
        for batch in plan.batches:
            for k in plan.ks:
                yield bench.agreement(batch, k)


def decode(engine: Engine, info: ModelInfo, plan: Plan, bandwidth: float, say: Say) -> Iterator[Decode]:
    """The part of `benchmark` that decodes: every batch at every k, and those of several rows with mixed k."""
    for k in plan.ks:
        if k > info.num_experts:
            raise ValueError(f"Active experts (k) must be from 1 to {info.num_experts}; got {k}.")
    engine._stop_ids = frozenset()  # so that every repeat decodes the same number of tokens
    bench = _Bench(engine, info, plan, bandwidth, say)
    for batch in plan.batches:
        for k in plan.ks:
            yield bench.decode(batch, [k])
        if batch > 1:
            yield bench.decode(batch, [k for k in MIXED if k <= info.num_experts])


@dataclass(frozen=True)
class _Bench:
    engine: Engine
    info: ModelInfo
    plan: Plan
    bandwidth: float
    say: Say

    @property
    def model(self) -> Any:
        return self.engine.model

    def decode(self, batch: int, ks: Sequence[int]) -> Decode:
        requests = [self.request(row, PROMPT_TOKENS, k, self.plan.new_tokens)
                    for row, k in enumerate(islice(cycle(ks), batch))]
        last: list[_Run] = []
        peaks: list[int] = []

        def ours() -> float:
            reset_peak(self.model.device)
            last[:] = [_Run(self.engine.stream_together(requests), len(requests))]
            peaks.append(peak_bytes(self.model.device))
            return last[0].seconds_per_token

        same_k = len(set(ks)) == 1
        recipes = [r for r in self.plan.recipes if same_k and (batch == 1 or not r.compile_cost)]
        first_token: dict[str, list[float]] = {recipe.name: [] for recipe in recipes}

        def stock(recipe: Recipe) -> float:
            try:
                first, step = decode_seconds(self.model, self.rectangle(requests), ks[0], self.plan.new_tokens, recipe)
            except torch.OutOfMemoryError:  # batched_mm copies the experts of every token of the prompt
                torch.cuda.empty_cache()
                return float("inf")
            first_token[recipe.name].append(first)
            return step / batch

        contestants: dict[str, Callable[[], float]] = {
            "ours": ours, **{recipe.name: partial(stock, recipe) for recipe in recipes}}
        what = f"decode, batch {batch}, " + (f"k={ks[0]}" if same_k else "mixed k")
        seconds = in_turns(contestants, self.plan.repeats, what, self.say)
        run = last[0]
        context = mean(len(self.ids(r)) for r in requests) + self.plan.new_tokens / 2
        size = bytes_per_step(weights_of(self.model), run.experts_touched, round(batch * context))
        return Decode(self.info.dtype, batch, ks[0] if same_k else None, context, 1 / seconds["ours"],
                      run.experts_touched, size, batch * self.bandwidth / size,
                      {name: 1 / seconds[name] for name in first_token},
                      {name: median(times[1:]) for name, times in first_token.items() if times}, max(peaks))

    def prefill(self, tokens: int) -> Prefill:
        request = self.request(0, min(tokens, self.info.context_length - 1), self.info.default_k, 1)
        ids = torch.tensor([self.ids(request)], device=self.model.device)
        first: list[float] = []
        slowest: list[float] = []

        def ours() -> float:
            began = now(self.model.device)
            filled: list[float] = []
            for event in self.engine.stream(request):
                if isinstance(event, Started):  # the prompt is tokens, as stock is given it
                    filled.append(now(self.model.device))
                elif isinstance(event, Prefilled):
                    filled.append(now(self.model.device))
                elif isinstance(event, Token):
                    first.append(time.perf_counter() - began)
            slowest.append(max(end - start for start, end in pairwise(filled)))
            return filled[-1] - filled[0]

        contestants: dict[str, Callable[[], float]] = {"ours": ours}
        if self.plan.recipes:
            contestants["stock"] = partial(prefill_seconds, self.model, ids, self.info.default_k)
        seconds = in_turns(contestants, self.plan.repeats, f"prefill of {ids.shape[1]} tokens", self.say)
        return Prefill(ids.shape[1], self.info.default_k, seconds["ours"], median(slowest[1:]), median(first[1:]),
                       seconds.get("stock"))

    def tracing(self) -> Tracing:
        k = self.info.default_k
        request = self.request(0, PROMPT_TOKENS, k, self.plan.new_tokens)
        seconds = in_turns({"events": lambda: _Run(self.engine.stream_together([request]), 1).seconds_per_token,
                            "kernels alone": partial(bare, self.engine, request, self.ids(request))},
                           self.plan.repeats, "tracing", self.say)
        return Tracing(k, 1 / seconds["events"], 1 / seconds["kernels alone"])

    def chats_at_once(self) -> Chats:
        k, chats = self.info.default_k, self.plan.chats
        requests = [self.request(row, PROMPT_TOKENS, k, self.plan.new_tokens) for row in range(chats)]
        seconds = in_turns({f"{chats} chats": lambda: _threads(self.engine, requests),
                            "one": lambda: _threads(self.engine, requests[:1])},
                           self.plan.repeats, f"{chats} chats at once", self.say)
        return Chats(chats, k, 1 / seconds[f"{chats} chats"], 1 / seconds["one"])

    def agreement(self, batch: int, k: int) -> Agreement:
        self.say(f"{self.plan.agreement} tokens against stock's, batch {batch}, k={k}")
        requests = [self.request(row, PROMPT_TOKENS, k, self.plan.agreement) for row in range(batch)]
        return agreement(self.engine, requests, [self.ids(request) for request in requests])

    def request(self, row: int, tokens: int, k: int, new_tokens: int) -> GenerationRequest:
        """A greedy request whose prompt has about so many tokens, template included; each row has its own text."""
        tokenizer = self.engine.tokenizer
        texts = read_texts([HELD_OUT])
        text = " ".join(texts[row % len(texts):] + texts[:row % len(texts)])
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        sampling, routing = SamplingParams(0, 1, new_tokens, 0), RoutingPolicy(k)
        template = len(encode(tokenizer, (Message("user", "a"),), self.info.context_length, 1).token_ids) - 1
        words = list(islice(cycle(ids), row, row + max(1, tokens - template)))
        return GenerationRequest((Message("user", tokenizer.decode(words)),), sampling, routing)

    def ids(self, request: GenerationRequest) -> tuple[int, ...]:
        return encode(self.engine.tokenizer, request.messages, self.info.context_length,
                      request.sampling.max_new_tokens).token_ids

    def rectangle(self, requests: Sequence[GenerationRequest]) -> torch.Tensor:
        """The requests' prompts cut to the shortest, since stock pads: int64 [B, N]."""
        prompts = [self.ids(r) for r in requests]
        shortest = min(len(p) for p in prompts)
        return torch.tensor([p[-shortest:] for p in prompts], device=self.model.device)


class _Run:
    """A batch streamed to its end: seconds a token while every row decodes, and the experts that its steps touched."""

    def __init__(self, events: Iterator[tuple[int, Event]], rows: int) -> None:
        arrivals: list[tuple[int, float]] = []
        chosen: list[list[Any]] = [[] for _ in range(rows)]  # a row, a step: uint8 [L, K]
        for row, event in events:
            if isinstance(event, Token):
                arrivals.append((row, time.perf_counter()))
                chosen[row].append(event.routing.selected_experts[0])
        self.seconds_per_token = _together(arrivals, rows)
        self.experts_touched = mean(
            sum(len(set().union(*(layer.tolist() for layer in layers))) for layers in zip(*step, strict=True))
            for step in zip(*chosen, strict=False))


def _together(arrivals: Sequence[tuple[int, float]], rows: int) -> float:
    """(row, seconds) of each token -> seconds a token between the last row's first and the first row's last token."""
    begins = max(next(at for row, at in arrivals if row == r) for r in range(rows))
    ends = min(next(at for row, at in reversed(arrivals) if row == r) for r in range(rows))
    within = sum(begins < at <= ends for _, at in arrivals)
    if not within:
        raise ValueError("The rows of this batch never decoded together; measure more new tokens (--new-tokens).")
    return (ends - begins) / within


def _threads(engine: Engine, requests: Sequence[GenerationRequest]) -> float:
    """Seconds a token of all streams together, each read by its own thread, while all of them decode."""
    arrivals: list[tuple[int, float]] = []

    def read(row: int) -> None:
        for event in engine.stream(requests[row]):
            if isinstance(event, Token):
                arrivals.append((row, time.perf_counter()))

    threads = [threading.Thread(target=read, args=(row,), daemon=True) for row in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return _together(sorted(arrivals, key=lambda arrival: arrival[1]), len(requests))


def bare(engine: Engine, request: GenerationRequest, prompt: Sequence[int]) -> float:
    """Seconds a token of the engine's kernels alone: their steps, with no events made of them."""
    kernels, new_tokens = engine.kernels, request.sampling.max_new_tokens
    with engine.turn, kernels.lanes([LaneRequest(len(prompt) + new_tokens, request.routing, request.sampling, 0)]) \
            as [lane]:
        for start in range(0, len(prompt), engine.prefill_chunk):
            kernels.prefill(lane, prompt[start:start + engine.prefill_chunk])
        kernels.step([lane], frozenset())
        began = time.perf_counter()
        for _ in range(new_tokens - 1):
            kernels.step([lane], frozenset())
        return (time.perf_counter() - began) / (new_tokens - 1)


def in_turns(contestants: dict[str, Callable[[], float]], repeats: int, what: str, say: Say) -> dict[str, float]:
    """Medians of what each contestant returns, after one warm-up each, run alternately."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(-1, repeats):
        for name, run in contestants.items():
            say(f"{what}: {'warm-up' if turn < 0 else f'repeat {turn + 1} of {repeats}'}, {name}")
            seconds = run()
            if turn >= 0:
                times[name].append(seconds)
    return {name: median(values) for name, values in times.items()}


def hardware(info: ModelInfo) -> str:
    """The device and, for a CPU, its threads and architecture."""
    if info.device != "CPU":
        return info.device
    return f"CPU, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}, {platform.machine()}"
