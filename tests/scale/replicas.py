"""What the tests of replicas share: requests with long replies, what they get on this machine alone, who answers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from olmoe_space.events import Event, Finished, Started, Token
from olmoe_space.lab.jobs import computed
from olmoe_space.library import Olmoe, load
from olmoe_space.request import GenerationRequest, Message, RoutingPolicy, SamplingParams
from olmoe_space.scale.ray_engine import RayEngine
from olmoe_space.settings import EMBEDDED_MODEL, Settings

from ..serving import REPOSITORY, free_port

SETTINGS = Settings(model=str(EMBEDDED_MODEL))
HOT = 3.0  # hardly any token more likely than another: the model does not end by itself
NEW_TOKENS = 200
READY_LIMIT_S = 200  # a replica takes 20 s to start, on a busy machine several times that
KS = (4, 8, 16, 32)


def request(seed: int | None, new_tokens: int = NEW_TOKENS) -> GenerationRequest:
    """Its reply takes a second or two, so that something may happen amid it."""
    return GenerationRequest((Message("user", "Tell me a long story about the sea and a fox."),),
                             SamplingParams(HOT, 1, new_tokens, seed), RoutingPolicy(KS[(seed or 0) % len(KS)]))


@dataclass
class Reply:
    """What came of a request, each event once."""

    events: list[Event] = field(default_factory=list)

    @property
    def token_ids(self) -> list[int]:
        return [event.token_id for event in self.events if isinstance(event, Token)]

    @property
    def answered_by(self) -> str:
        assert isinstance(self.events[0], Started) and isinstance(self.events[-1], Finished)
        assert sum(isinstance(event, (Started, Finished)) for event in self.events) == 2
        return self.events[-1].answered_by

    def read(self, events: Iterable[Event]) -> Reply:
        self.events.extend(events)
        return self


@cache
def here() -> Olmoe:
    return load(str(EMBEDDED_MODEL))


@cache
def alone(seed: int, new_tokens: int = NEW_TOKENS) -> tuple[int, ...]:
    """The token ids that the request gets from an engine in this process."""
    return tuple(Reply().read(computed(here().engine, "chat", request(seed, new_tokens))).token_ids)


def in_background(engine: RayEngine, seeds: Sequence[int]) -> list[Future[Reply]]:
    """Of each seed the reply, all asked for at once."""
    threads = ThreadPoolExecutor(len(seeds))
    replies = [threads.submit(lambda seed=seed: Reply().read(engine.run("chat", request(seed)))) for seed in seeds]
    threads.shutdown(wait=False)
    return replies


def begun_on(engine: RayEngine, name: str, seed: int) -> tuple[Reply, Generator[Event, None, None]]:
    """A reply by the replica of that name, of which some tokens are read, and what is to come of it."""
    for _ in range(40):
        events: Any = engine.run("chat", request(seed))
        reply = Reply([next(events)])
        if reply.events[0].answered_by == f"replica {name}":
            while len(reply.token_ids) < 5:
                reply.events.append(next(events))
            return reply, events
        events.close()
    raise AssertionError(f"replica {name} was never asked: {engine.state()}")


def replica(engine: RayEngine, which: Callable[[dict[str, Any]], bool] = lambda one: True) -> dict[str, Any]:
    return next(one for one in engine.state()["replicas"] if which(one))


def wait_for(what: Callable[[], Any], limit_s: float = READY_LIMIT_S) -> Any:
    until = time.monotonic() + limit_s
    while not (found := what()):
        assert time.monotonic() < until, f"not within {limit_s:.0f} s"
        time.sleep(0.2)
    return found


def ready(engine: RayEngine, number: int, without: Iterable[int] = ()) -> list[dict[str, Any]]:
    """The replicas, once there are so many and none has a process id of `without`."""
    def found() -> Any:
        told = engine.state()
        pids = {one["pid"] for one in told["replicas"]}
        fresh = told["told_s_ago"] < 3 and len(pids) == number and not pids & set(without)
        return fresh and told["replicas"]
    return list(wait_for(found))


@contextmanager
def served(replicas: str) -> Iterator[RayEngine]:
    """Replicas of one core each in a cluster of their own, as `serve --replicas` starts them."""
    port = free_port()
    shell = [sys.executable, "-m", "olmoe_space", "--model", str(EMBEDDED_MODEL), "serve", "--replicas", replicas,
             "--port", str(port)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    process = subprocess.Popen(shell, cwd=REPOSITORY, env=environment | {"RAY_AUTH_MODE": "disabled"},
                               stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert "Ready" in process.stdout.readline(), "the replicas did not start"
        yield RayEngine(f"ray://127.0.0.1:{port}", Settings.max_request_s)
    finally:
        process.terminate()
        process.wait(timeout=60)
