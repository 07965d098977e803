"""What k costs on this machine: time, speed, memory and the routers' work of one reply, ours beside stock
transformers and what the memory's speed allows.

Every function is one short piece of work, so that a run over many k is stopped between them and keeps what it has.
Shapes: T tokens of the reply, L layers, E experts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from copy import copy
from datetime import UTC, datetime
from statistics import median
from typing import Any

import torch
import transformers

from ..conversation import encode
from ..engine.engine import Engine
from ..events import Finished
from ..model.memory import peak_bytes, reset_peak
from ..model.structure import weights_of
from ..model_info import ModelInfo
from ..performance import KRun, Machine
from ..request import GenerationRequest
from ..trace import RoutingTrace, TraceRecorder
from .benchmark import hardware
from .limits import bytes_per_token, copy_bandwidth, now
from .stock import stock_at


def machine(engine: Engine, info: ModelInfo) -> Iterator[Machine]:
    """The device, and the speed of its memory as it is now (a copy of 256 MiB, on a GPU 1 GiB)."""
    size = sum(p.numel() * p.element_size() for p in engine.model.parameters())
    yield Machine(hardware(info), copy_bandwidth(engine.model.device), size, torch.__version__,
                  transformers.__version__, datetime.now(UTC).date().isoformat())


def speed_at_k(engine: Engine, info: ModelInfo, request: GenerationRequest, repeats: int,
               stock: bool) -> Iterator[KRun]:
    """The request's reply, computed `repeats` times after a warm-up, by stock transformers in turn with ours so that
    a noisy machine is noisy for both -> a KRun after each repeat, of all so far.

    The reply has exactly request.sampling.max_new_tokens tokens, at least 3, whatever the model would end it with;
    fewer only where the context is full.
    """
    if request.sampling.max_new_tokens < 3:
        raise ValueError("A benchmark needs at least 3 new tokens, to have steps between the first and the last.")
    model, weights = engine.model, weights_of(engine.model)
    endless = copy(engine)  # shares the engine's turns, but no token ends its replies
    endless._stop_ids = frozenset()
    k = int(request.routing.num_experts_per_tok)
    prompt = encode(engine.tokenizer, request.messages, engine.context_length, request.sampling.max_new_tokens)
    ours, theirs, peaks = list[Finished](), list[tuple[float, float]](), list[int]()
    for turn in range(-1, repeats):
        reset_peak(model.device)
        finished, trace = _reply(endless, request)
        peaks.append(peak_bytes(model.device))
        n = trace.num_tokens - trace.prompt_tokens
        if stock:
            seconds = _stock(engine, prompt.token_ids, k, 2 if turn < 0 else n)
        if turn < 0:
            continue
        ours.append(finished)
        if stock:
            theirs.append(seconds)
        yield KRun(
            k, turn + 1, n, median(f.ttft_s + f.decode_s for f in ours), median(f.ttft_s for f in ours),
            median(f.tokens_per_s for f in ours), median(first + rest for first, rest in theirs) if theirs else None,
            median((n - 1) / rest for _, rest in theirs) if theirs else None, info.active_params(k),
            bytes_per_token(weights, k, round(len(prompt.token_ids) + n / 2)), max(peaks),
            tuple(trace.token_ids[trace.prompt_tokens:].tolist()), trace.expert_counts("decode"),
            trace.routing_mass("decode").mean(0, dtype=float), trace.routing_entropy("decode").mean(0, dtype=float))


def _reply(engine: Engine, request: GenerationRequest) -> tuple[Finished, RoutingTrace]:
    recorder = TraceRecorder()
    for event in engine.stream(request):
        recorder.add(event)
    assert recorder.finished is not None  # the stream was read to its end
    return recorder.finished, recorder.trace()


def _stock(engine: Engine, prompt: tuple[int, ...], k: int, new_tokens: int) -> tuple[float, float]:
    """Greedy `generate` -> seconds to its first token, and from there to its last (a long run less a short one)."""
    model: Any = engine.model
    ids = torch.tensor([prompt], device=model.device)

    def run(tokens: int) -> float:
        began = now(model.device)
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens,
                       do_sample=False)
        return now(model.device) - began

    with engine.turn, stock_at(model, k):
        first = run(1)
        return first, max(time.get_clock_info("perf_counter").resolution, run(new_tokens) - first)
