"""Visitors and replicas, simulated: what a fleet does under a load that nobody has at hand to measure.

A closed loop: a visitor thinks, asks, reads on while the reply streams, thinks again. A request goes to the replica
with the most free slots; with none free it waits, first come, first served; with the queue full it is refused. A
replica computes as the engine does: one step gives each of its rows a token, and a prompt's forward and a step take
turns. Between two arrivals or ends all rows of a replica advance at the same rate, so time goes from event to event
(processor sharing) and a million visitors take a minute. Replicas may die; what they were at is asked for again from
its beginning, as `ray_engine` does.

Knows nothing of what is before the replicas: front ends, networks, proxies.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from .service_times import ServiceTimes

LONGEST = 1024  # tokens; what a request may ask for at most


@dataclass(frozen=True)
class Load:
    """visitors: on the page at once. think_s: mean seconds between a reply's end and the next question, drawn from an
    exponential distribution, as are new_tokens (mean; 1 to LONGEST). prompt_tokens: with the history, fixed."""

    visitors: int
    think_s: float = 60.0
    new_tokens: float = 250.0
    prompt_tokens: int = 500


@dataclass(frozen=True)
class Fleet:
    """replicas of `slots` rows each; `queue`: requests that may wait for one, over all."""

    replicas: int
    slots: int = 32
    queue: int = 64


@dataclass(frozen=True)
class Death:
    """A replica dies at `at_s` and another is there in its place after `down_s`."""

    at_s: float
    replica: int
    down_s: float = 60.0


@dataclass(frozen=True)
class Outcome:
    """What the visitors got in `seconds` after the warm-up. first_token_s, tokens_per_s: of each reply that began and
    ended in them. refused, moved: requests. rows: mean number computed at once by a replica."""

    seconds: float
    replies: int
    refused: int
    moved: int
    rows: float
    first_token_s: np.ndarray
    tokens_per_s: np.ndarray

    @property
    def replies_per_s(self) -> float:
        return self.replies / self.seconds


@dataclass
class _Request:
    visitor: int
    asked_at: float
    new_tokens: int
    first_at: float = 0.0


@dataclass
class _Replica:
    """`tokens`: what a row that was there from the start would have by now."""

    step_s: Sequence[float]  # at [rows]
    prompt_s: float
    up: bool = True
    now: float = 0.0
    tokens: float = 0.0
    row_seconds: float = 0.0
    version: int = 0
    rows: list[tuple[float, int, _Request]] = field(default_factory=list)  # a heap of (tokens at its end, number, -)
    prompts: deque[tuple[float, _Request]] = field(default_factory=deque)  # (seconds left, -)
    number: int = 0

    @property
    def held(self) -> int:
        return len(self.rows) + len(self.prompts)

    def _rates(self) -> tuple[float, float]:
        """Seconds of the first prompt's forward, and tokens of each row, that pass in one second."""
        step = self.step_s[len(self.rows)]
        if not self.prompts:
            return 0.0, 1 / step if step else 0.0
        return self.prompt_s / (self.prompt_s + step), 1 / (self.prompt_s + step) if step else 0.0

    def next_at(self) -> float:
        """When the next prompt is read or the next reply ends, if nobody comes before."""
        prompt_rate, token_rate = self._rates()
        ends = [self.now + self.prompts[0][0] / prompt_rate] if self.prompts else []
        if self.rows:
            ends.append(self.now + (self.rows[0][0] - self.tokens) / token_rate)
        return min(ends, default=float("inf"))

    def advance(self, until: float) -> list[_Request]:
        """Computes to `until`, not past its next event -> the replies that ended there."""
        prompt_rate, token_rate = self._rates()
        passed = until - self.now
        self.now, self.tokens = until, self.tokens + passed * token_rate
        self.row_seconds += passed * self.held
        ended = []
        while self.rows and self.rows[0][0] <= self.tokens + 1e-6:
            ended.append(heapq.heappop(self.rows)[2])
        if self.prompts:
            left, request = self.prompts[0]
            self.prompts[0] = (left - passed * prompt_rate, request)
            if self.prompts[0][0] <= 1e-9:
                self.prompts.popleft()
                self.number += 1
                heapq.heappush(self.rows, (self.tokens + request.new_tokens, self.number, request))
                request.first_at = until + self.step_s[len(self.rows)]
        return ended

    def die(self) -> list[_Request]:
        """-> what it was at."""
        lost = [row[2] for row in self.rows] + [request for _, request in self.prompts]
        self.rows.clear()
        self.prompts.clear()
        self.up = False
        return lost


class _Simulation:
    def __init__(self, load: Load, fleet: Fleet, service: ServiceTimes, seed: int) -> None:
        self.load, self.fleet = load, fleet
        self.random = random.Random(seed)
        step_s = [0.0] + [service.step(rows) for rows in range(1, fleet.slots + 1)]
        self.replicas = [_Replica(step_s, service.prompt(load.prompt_tokens)) for _ in range(fleet.replicas)]
        self.free = np.full(fleet.replicas, fleet.slots)  # of each replica; 0 while it is down
        self.waiting: deque[_Request] = deque()
        self.events: list[tuple[float, int, Callable[[float], None]]] = []
        self.count = 0
        self.ended: list[tuple[float, _Request]] = []
        self.refused: list[float] = []
        self.moved: list[float] = []

    def at(self, time: float, event: Callable[[float], None]) -> None:
        self.count += 1  # decides between events of one moment, which are not compared
        heapq.heappush(self.events, (time, self.count, event))

    def think(self, visitor: int, now: float) -> None:
        self.at(now + self.random.expovariate(1 / self.load.think_s), lambda then: self.ask(visitor, then))

    def ask(self, visitor: int, now: float) -> None:
        tokens = 1 + min(int(self.random.expovariate(1 / self.load.new_tokens)), LONGEST - 1)
        if len(self.waiting) >= self.fleet.queue:
            self.refused.append(now)
            self.think(visitor, now)
        else:
            self.waiting.append(_Request(visitor, now, tokens))
            self.seat(now)

    def seat(self, now: float) -> None:
        """Those who wait go to the replicas with the most free slots."""
        while self.waiting and self.free[best := int(self.free.argmax())] > 0:
            request, replica = self.waiting.popleft(), self.replicas[best]
            self.settle(best, replica.advance(now), now)
            replica.prompts.append((replica.prompt_s, request))
            self.free[best] -= 1
            self.wake(best)

    def wake(self, index: int) -> None:
        """Asks the replica when its next event is; what it said before no longer counts."""
        replica = self.replicas[index]
        replica.version += 1
        version, time = replica.version, replica.next_at()
        if time < float("inf"):
            self.at(time, lambda now: self.tick(index, version, now))

    def tick(self, index: int, version: int, now: float) -> None:
        replica = self.replicas[index]
        if version == replica.version:
            self.settle(index, replica.advance(now), now)
            self.wake(index)
            self.seat(now)

    def settle(self, index: int, ended: Sequence[_Request], now: float) -> None:
        self.free[index] += len(ended)
        for request in ended:
            self.ended.append((now, request))
            self.think(request.visitor, now)

    def die(self, death: Death, now: float) -> None:
        replica = self.replicas[death.replica]
        if not replica.up:
            return
        self.settle(death.replica, replica.advance(now), now)
        lost = replica.die()
        self.moved += [now] * len(lost)
        self.waiting.extendleft(reversed(lost))  # before those who came later, however long the queue is
        self.free[death.replica] = 0
        self.wake(death.replica)
        self.at(now + death.down_s, lambda then: self.rise(death.replica, then))
        self.seat(now)

    def rise(self, index: int, now: float) -> None:
        replica = self.replicas[index]
        replica.up, replica.now = True, now
        self.free[index] = self.fleet.slots
        self.seat(now)

    def run(self, until: float) -> None:
        while self.events and self.events[0][0] <= until:
            time, _, event = heapq.heappop(self.events)
            event(time)


def simulate(load: Load, fleet: Fleet, service: ServiceTimes, seconds: float = 300.0, warm_up_s: float = 120.0,
             deaths: Sequence[Death] = (), seed: int = 0) -> Outcome:
    """What `fleet` does under `load` in `seconds` that follow the warm-up. A death's `at_s` counts from the start.
    Raises ValueError for a fleet or a load of nothing."""
    if min(load.visitors, fleet.replicas, fleet.slots, seconds) <= 0:
        raise ValueError("A simulation needs at least one visitor, one replica, one slot and some seconds.")
    simulation = _Simulation(load, fleet, service, seed)
    for visitor in range(load.visitors):
        simulation.think(visitor, 0.0)
    for death in deaths:
        simulation.at(death.at_s, partial(simulation.die, death))
    simulation.run(warm_up_s)
    before = sum(replica.row_seconds for replica in simulation.replicas)
    simulation.run(warm_up_s + seconds)
    replies = [(time, r) for time, r in simulation.ended if time >= warm_up_s]
    told = [(time, r) for time, r in replies if r.asked_at >= warm_up_s]
    after = sum(replica.row_seconds for replica in simulation.replicas)
    return Outcome(
        seconds, len(replies), sum(t >= warm_up_s for t in simulation.refused),
        sum(t >= warm_up_s for t in simulation.moved), (after - before) / seconds / fleet.replicas,
        np.array([r.first_at - r.asked_at for _, r in told]),
        np.array([(r.new_tokens - 1) / (time - r.first_at) for time, r in told
                  if r.new_tokens > 1 and time > r.first_at]))


def enough(outcome: Outcome, first_token_s: float) -> bool:
    """Nobody was refused, and 95 of 100 read their first token in time."""
    return not outcome.refused and len(outcome.first_token_s) > 0 and \
        float(np.percentile(outcome.first_token_s, 95)) <= first_token_s


def smallest_fleet(load: Load, service: ServiceTimes, slots: int, queue: int, first_token_s: float,
                   seconds: float = 300.0) -> tuple[Fleet, Outcome]:
    """The fewest replicas that are `enough`, and what they do; looked for from what the work alone needs upwards.
    Raises ValueError where not even an idle fleet is fast enough."""
    idle_s = service.prompt(load.prompt_tokens) + service.step(1)
    if idle_s > first_token_s:
        raise ValueError(f"A first token takes {idle_s:.3f} s with nobody else there; {first_token_s:g} s cannot be "
                         "had from more replicas.")
    each_s = load.new_tokens * service.step(slots) / slots + service.prompt(load.prompt_tokens)
    asked_per_s = load.visitors / (load.think_s + load.new_tokens * service.step(slots))
    replicas = max(1, int(asked_per_s * each_s))
    while True:
        fleet = Fleet(replicas, slots, queue)
        outcome = simulate(load, fleet, service, seconds)
        if enough(outcome, first_token_s):
            return fleet, outcome
        replicas += 1
