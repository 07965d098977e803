"""What going through Ray costs and what a second replica brings: `python -m tests.scale.measure_ray`. Loopback only.

hop_ms: seconds a token of the same request through Ray less those of the same engine in this process, in turns.
tokens_per_s: of 16 chats at once, with one and with two replicas of one core each, every run in order. Prints one JSON
line: of the hop the least, the median and the largest; two_by_one is a ratio of medians.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable, Iterable
from statistics import median
from typing import Any

from olmoe_space.events import Token
from olmoe_space.lab.jobs import computed
from olmoe_space.library import load
from olmoe_space.request import GenerationRequest, Message, RoutingPolicy, SamplingParams
from olmoe_space.settings import EMBEDDED_MODEL

from .replicas import served

REPEATS = 5
CHATS = 16
ROUNDS = 2
NEW_TOKENS = 64
Run = Callable[..., Iterable[Any]]


def request(seed: int) -> GenerationRequest:
    """One whose reply is long with every seed that is used here."""
    return GenerationRequest((Message("user", "Tell me a long story about the sea and a fox."),),
                             SamplingParams(1.2, 1, NEW_TOKENS, seed), RoutingPolicy(8))


def seconds_a_token(run: Run, seed: int) -> float:
    """Between the first token and the last, as they arrive here."""
    times = [time.perf_counter() for event in run("chat", request(seed)) if isinstance(event, Token)]
    return (times[-1] - times[0]) / (len(times) - 1)


def tokens_per_s(run: Run) -> float:
    counts: list[int] = []
    chats = [threading.Thread(target=lambda seed=seed: counts.append(
        sum(isinstance(event, Token) for event in run("chat", request(seed))))) for seed in range(CHATS)]
    began = time.perf_counter()
    for chat in chats:
        chat.start()
    for chat in chats:
        chat.join()
    return sum(counts) / (time.perf_counter() - began)


def in_turns(runs: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """So that what else runs on the machine falls on all of them alike. The first of each is not counted."""
    seen: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, measure in runs.items():
            value = measure()
            if turn:
                seen[name].append(value)
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.scale.measure_ray", description=__doc__)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    args = parser.parse_args()
    local = load(str(EMBEDDED_MODEL)).engine
    here = lambda name, *arguments: computed(local, name, *arguments)  # noqa: E731
    hop: dict[str, list[float]] = {}
    speed: dict[int, list[float]] = {1: [], 2: []}
    for replicas in (1, 2) * ROUNDS:  # one cluster at a time: idle, each takes part of a core
        with served(str(replicas)) as fleet:
            if not hop:
                hop = in_turns({"here": lambda: seconds_a_token(here, 1),
                                "through Ray": lambda: seconds_a_token(fleet.run, 1)}, args.repeats)
            speed[replicas] += in_turns({"all": lambda: tokens_per_s(fleet.run)}, args.repeats)["all"]
    costs = sorted(1000 * (b - a) for a, b in zip(*hop.values(), strict=True))
    print(json.dumps({
        "ms_a_token": {name: round(1000 * median(values), 2) for name, values in hop.items()},
        "hop_ms": [round(value, 2) for value in (costs[0], median(costs), costs[-1])],
        "tokens_per_s": {replicas: [round(value, 1) for value in sorted(values)] for replicas, values in speed.items()},
        "two_by_one": round(median(speed[2]) / median(speed[1]), 2)}))


if __name__ == "__main__":
    main()
