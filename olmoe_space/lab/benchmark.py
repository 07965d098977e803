"""Speed of our decode loop against `generate` of stock transformers, measured in one run on one machine.

Both are warmed up, repeated in turns (so that a noisy machine is noisy for both), and told by their medians.
Decode counts the steps after the first token; prefill is one forward over the prompt with the head on its last token.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import torch

from ..conversation import encode
from ..engine.cache import KeyValueCache
from ..engine.engine import Engine
from ..engine.forward import forward
from ..engine.routing import row_routing
from ..events import Finished
from ..model.structure import weights_of
from ..model_info import ModelInfo
from ..request import GenerationRequest, Message, RoutingPolicy, SamplingParams
from .stock import stock_at

PROMPT_TOKENS = 128
PREFILL_TOKENS = 256


def benchmark(model: Any, tokenizer: Any, info: ModelInfo, ks: Sequence[int], new_tokens: int,
              repeats: int) -> dict[str, Any]:
    """Prints a table to stderr and returns the figures: tokens a second, seconds, ratios, hardware."""
    engine = Engine(model, tokenizer)
    engine._stop_ids = frozenset()  # so that every repeat decodes the same number of tokens
    request = GenerationRequest((Message("user", "word " * (PROMPT_TOKENS - 12)),), SamplingParams(0, 1, new_tokens, 0))
    prompt = encode(tokenizer, request.messages, info.context_length, new_tokens).token_ids
    ids = torch.tensor([prompt], device=model.device)  # all three decode the same text, with the same experts
    rows = []
    for k in ks:
        times = in_turns({
            "ours": partial(_ours, engine, replace(request, routing=RoutingPolicy(k))),
            "untraced": partial(_untraced, model, ids, k, new_tokens),
            "stock": partial(_stock, model, ids, k, new_tokens),
        }, repeats, f"decode at k={k}")
        rate = {name: 1 / t for name, t in times.items()}
        rows.append({"k": k, "tokens_per_s": rate["ours"], "stock_tokens_per_s": rate["stock"],
                     "ratio": rate["ours"] / rate["stock"], "tracing_cost": 1 - rate["ours"] / rate["untraced"]})
        _say(f"decode k={k:>2}: ours {rate['ours']:.1f} tok/s, stock generate {rate['stock']:.1f}, "
             f"ratio {rows[-1]['ratio']:.2f}; events and traces cost {100 * rows[-1]['tracing_cost']:.1f} %")
    long = _ids(model, PREFILL_TOKENS)
    prefill = in_turns({"ours": partial(_prefill, model, long), "stock": partial(_stock_prefill, model, long)},
                       repeats, "prefill")
    _say(f"prefill of {PREFILL_TOKENS} tokens at k={info.default_k}: ours {1000 * prefill['ours']:.0f} ms, "
         f"stock {1000 * prefill['stock']:.0f} ms")
    return {"model": info.name, "dtype": info.dtype, "hardware": hardware(info), "date": time.strftime("%Y-%m-%d"),
            "torch": torch.__version__, "prompt_tokens": len(prompt), "new_tokens": new_tokens, "repeats": repeats,
            "decode": rows, "prefill": {"tokens": PREFILL_TOKENS, "k": info.default_k, "seconds": prefill["ours"],
                                        "stock_seconds": prefill["stock"],
                                        "ratio": prefill["stock"] / prefill["ours"]}}


def in_turns(contestants: dict[str, Callable[[], float]], repeats: int, what: str) -> dict[str, float]:
    """Medians of what each contestant returns, after one warm-up each, run alternately."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(-1, repeats):
        for name, run in contestants.items():
            _say(f"\r{what}: {'warm-up' if turn < 0 else f'repeat {turn + 1} of {repeats}'}, {name}   ", end="")
            seconds = run()
            if turn >= 0:
                times[name].append(seconds)
    _say("\r" + " " * 60 + "\r", end="")
    return {name: median(values) for name, values in times.items()}


def hardware(info: ModelInfo) -> str:
    """The device and, for a CPU, its threads and architecture."""
    if info.device != "CPU":
        return info.device
    return f"CPU, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}, {platform.machine()}"


def _ours(engine: Engine, request: GenerationRequest) -> float:
    """Seconds a decoded token of the engine as the page uses it: events with their traces."""
    *_, last = engine.stream(request)
    assert isinstance(last, Finished)
    return last.decode_s / (last.new_tokens - 1)


def _untraced(model: Any, ids: torch.Tensor, k: int, new_tokens: int) -> float:
    """Seconds a token of the bare loop: forward and argmax, nothing brought out."""
    weights = weights_of(model)
    routing = row_routing([RoutingPolicy(k)], weights.num_experts, weights.device)
    cache = KeyValueCache(weights, 1, ids.shape[1] + new_tokens)
    token = forward(weights, ids, cache, [0], routing).logits[0, -1].argmax()
    began = _now(model)
    for _ in range(new_tokens - 1):
        token = forward(weights, token.view(1, 1), cache, [0], routing).logits[0, -1].argmax()
    return (_now(model) - began) / (new_tokens - 1)


def _stock(model: Any, ids: torch.Tensor, k: int, new_tokens: int) -> float:
    """Seconds a token of `generate`: a long run less a run of one token, which is the prefill."""

    def run(tokens: int) -> float:
        began = _now(model)
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens,
                       do_sample=False)
        return _now(model) - began

    with stock_at(model, k):
        first = run(1)
        return (run(new_tokens) - first) / (new_tokens - 1)


def _prefill(model: Any, ids: torch.Tensor) -> float:
    weights = weights_of(model)
    began = _now(model)
    forward(weights, ids, KeyValueCache(weights, 1, ids.shape[1]), [0],
            row_routing([RoutingPolicy(weights.default_k)], weights.num_experts, weights.device))
    return _now(model) - began


@torch.inference_mode()
def _stock_prefill(model: Any, ids: torch.Tensor) -> float:
    began = _now(model)
    model(ids, use_cache=True, logits_to_keep=1)
    return _now(model) - began


def _ids(model: Any, tokens: int) -> torch.Tensor:
    """Arbitrary tokens, the same every time, spread over the vocabulary."""
    return (torch.arange(tokens, device=model.device).view(1, -1) * 37 + 100) % model.config.vocab_size


def _now(model: Any) -> float:
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _say(text: str, end: str = "\n") -> None:
    print(text, end=end, file=sys.stderr, flush=True)
