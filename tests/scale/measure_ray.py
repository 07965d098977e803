"""What going through Ray costs and what a second replica brings: `python -m tests.scale.measure_ray`. Loopback only.

hop_ms: seconds a token of the same request through Ray less those of the same engine in this process, in turns.
tokens_per_s: of 16 chats at once, with one and with two replicas of one core each. Prints one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable, Iterable
from statistics import median
from typing import Any

from olmoe_space.events import Token
from olmoe_space.lab.jobs import computed
from olmoe_space.library import load
from olmoe_space.request import GenerationRequest, Message, RoutingPolicy, SamplingParams
from olmoe_space.scale.deployment import Fleet, connect, deploy
from olmoe_space.scale.ray_engine import RayEngine
from olmoe_space.settings import EMBEDDED_MODEL, Settings, tell_ray

from ..serving import free_port

REPEATS = 9
CHATS = 16
NEW_TOKENS = 64
SETTINGS = Settings(model=str(EMBEDDED_MODEL))
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
    port = free_port()
    tell_ray()
    connect(None)
    local = load(str(EMBEDDED_MODEL)).engine
    deploy(SETTINGS, Fleet(1, 1, cpus=1, port=port))
    one = RayEngine(f"ray://127.0.0.1:{port}", SETTINGS.max_request_s)
    here = lambda name, *arguments: computed(local, name, *arguments)  # noqa: E731
    hop = in_turns({"local": lambda: seconds_a_token(here, 1), "ray": lambda: seconds_a_token(one.run, 1)},
                   args.repeats)
    figures: dict[str, Any] = {name: round(1000 * median(values), 2) for name, values in hop.items()}
    figures["hop_ms"] = round(1000 * median(b - a for a, b in zip(hop["local"], hop["ray"], strict=True)), 2)
    print(figures, file=sys.stderr)
    figures["one"] = median(tokens_per_s(one.run) for _ in range(args.repeats))
    deploy(SETTINGS, Fleet(2, 2, cpus=1, port=port))
    figures["two"] = median(tokens_per_s(one.run) for _ in range(args.repeats))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
