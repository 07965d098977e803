"""A real engine under the simulation's load, beside what the simulation says of it:
`python -m tests.measure_simulation BENCHMARK [--random-weights] [--visitors 50,200] [--seconds 60]`.

BENCHMARK: what `python -m olmoe_space benchmark` printed on this machine. Visitors are threads that think, ask with a k
of 4, 8, 16 or 32 and a prompt of a fixed length, and read their reply to its end.
"""

from __future__ import annotations

import argparse
import json
import random
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from olmoe_space.engine.engine import Engine
from olmoe_space.events import Finished, Token
from olmoe_space.model.loader import load, load_random
from olmoe_space.request import GenerationRequest, Message, RoutingPolicy, SamplingParams
from olmoe_space.scale.service_times import from_benchmark
from olmoe_space.scale.simulation import LONGEST, Fleet, Load, Outcome, simulate
from olmoe_space.settings import HUB_MODEL, Settings
from olmoe_space.shell.loading import engine_for

WORDS = "Tell me about the sea and the many colours of its light. "


def request(engine: Engine, load: Load, chance: random.Random) -> GenerationRequest:
    tokens = len(engine.tokenizer(WORDS)["input_ids"])
    k = min(chance.choice((4, 8, 16, 32)), engine.model.config.num_experts)
    new_tokens = 1 + min(int(chance.expovariate(1 / load.new_tokens)), LONGEST - 1)
    return GenerationRequest((Message("user", WORDS * (load.prompt_tokens // tokens)),),
                             SamplingParams(1.0, 1.0, new_tokens, chance.randrange(2**32)), RoutingPolicy(k))


def visit(engine: Engine, load: Load, seed: int, until: float, told: list[tuple[float, float, float, int]]) -> None:
    """Appends (asked, first token, end, tokens), seconds of time.monotonic, of each reply."""
    chance = random.Random(seed)
    while True:
        time.sleep(max(0.0, min(chance.expovariate(1 / load.think_s), until - time.monotonic())))
        asked = time.monotonic()
        if asked >= until:
            return
        first = 0.0
        for event in engine.stream(request(engine, load, chance)):
            if isinstance(event, Token):
                first = first or time.monotonic()
            elif isinstance(event, Finished):
                told.append((asked, first, time.monotonic(), event.new_tokens))


def measured(engine: Engine, load: Load, seconds: float, warm_up_s: float) -> Outcome:
    told: list[tuple[float, float, float, int]] = []
    began = time.monotonic()
    visitors = [threading.Thread(target=visit, args=(engine, load, seed, began + warm_up_s + seconds, told))
                for seed in range(load.visitors)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    start, end = began + warm_up_s, began + warm_up_s + seconds
    inside = [t for t in told if start <= t[2] < end]
    whole = [t for t in inside if t[0] >= start]
    rows = sum(min(t[2], end) - max(t[0], start) for t in told if t[2] > start and t[0] < end) / seconds
    return Outcome(seconds, len(inside), 0, 0, rows, np.array([t[1] - t[0] for t in whole]),
                   np.array([(t[3] - 1) / (t[2] - t[1]) for t in whole if t[3] > 1]))


def as_dict(outcome: Outcome) -> dict[str, Any]:
    def percentiles(values: np.ndarray) -> list[float]:
        return [round(float(v), 3) for v in np.percentile(values, (5, 50, 95))]
    return {"replies_per_s": round(outcome.replies_per_s, 2), "rows": round(outcome.rows, 2),
            "first_token_s": percentiles(outcome.first_token_s), "tokens_per_s": percentiles(outcome.tokens_per_s)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("benchmark", type=Path)
    parser.add_argument("--random-weights", action="store_true")
    parser.add_argument("--visitors", default="50,200")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--think", type=float, default=10)
    parser.add_argument("--new-tokens", type=float, default=250)
    parser.add_argument("--prompt-tokens", type=int, default=500)
    parser.add_argument("--slots", type=int, default=32)
    args = parser.parse_args()
    service = from_benchmark(args.benchmark)
    settings = replace(Settings(), max_request_s=float("inf"), max_slots=args.slots)
    loaded, engine = engine_for(load_random(HUB_MODEL, settings) if args.random_weights else load(settings), settings)
    print(loaded.room, service.hardware, flush=True)
    for visitors in map(int, args.visitors.split(",")):
        load_ = Load(visitors, args.think, args.new_tokens, args.prompt_tokens)
        real = as_dict(measured(engine, load_, args.seconds, 2 * args.think))
        said = as_dict(simulate(load_, Fleet(1, args.slots, queue=visitors), service, args.seconds, 2 * args.think))
        print(f"{visitors} visitors\n  measured {json.dumps(real)}\n  simulated {json.dumps(said)}", flush=True)


if __name__ == "__main__":
    main()
