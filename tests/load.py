"""Visitors at once on the served app: `python -m tests.load [--visitors 50] [--seconds 120]`. Loopback only.

Each visitor chats, asks again, stops, or closes the tab, at random. Every reply that comes to its end must carry the k
and seed that were asked for and be, letter by letter, what the same request got while the server had nothing else to
do. A table of what was seen, then one JSON line; exit code 1 if anything of it is not as it should be.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import random
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from .serving import Server, serve

TOPICS = ("a fox", "the sea", "prime numbers", "bread", "the moon", "a loop in Python", "rain", "a clock")
KS = (1, 4, 8, 16, 32, 64)
NEW_TOKENS = (8, 24, 48)
ACTIONS = ("chat", "chat", "chat", "retry", "stop", "close")
PAUSE_S = 2.0  # at most, between what a visitor does
MEMORY_GROWTH = 0.05  # of resident memory over the last half, at most
LOOP_BLOCKED_S = 0.25  # /healthz, which the event loop answers itself, may take at most
FIELDS = ("message", "history", "mode", "num_experts_per_tok", "k_min", "k_max", "weighting", "system_prompt",
          "temperature", "top_p", "max_new_tokens", "seed", "rule", "parameter")


@dataclass(frozen=True)
class Wish:
    """One request, of those that visitors share. Its reply is a function of it alone."""

    message: str
    k: int
    seed: int
    max_new_tokens: int

    def fields(self) -> list[Any]:
        given = {"message": self.message, "mode": "fixed", "num_experts_per_tok": self.k, "seed": self.seed,
                 "max_new_tokens": self.max_new_tokens, "k_min": 4, "k_max": 16, "weighting": "raw",
                 "system_prompt": "", "temperature": 0.8, "top_p": 0.95, "rule": "top-p"}
        return [given.get(name) for name in FIELDS]


@dataclass
class Seen:
    """What became of the requests, and what was wrong with some."""

    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)  # of replies read to their end
    cancel_races: int = 0  # gradio's /cancel answers 500 where the reply ends in the same moment; nothing is lost by it


def wishes(number: int, seed: int) -> list[Wish]:
    rng = random.Random(seed)
    return [Wish(f"Tell me about {rng.choice(TOPICS)}, please. ({i})", rng.choice(KS), rng.randrange(10_000),
                 rng.choice(NEW_TOKENS)) for i in range(number)]


@dataclass
class Tab:
    """A visitor's page: its connections, and the name by which gradio knows it."""

    client: httpx.AsyncClient
    session: str = field(default_factory=lambda: secrets.token_hex(6))


async def events(tab: Tab, wish: Wish, seen: Seen) -> AsyncIterator[tuple[str, Any, str]]:
    """Asks, and yields (event, data, event id) as they arrive; leaving the loop closes the connection."""
    client = tab.client
    asked = await client.post("gradio_api/call/generate", json={"data": wish.fields(), "session_hash": tab.session})
    seen.statuses[asked.status_code] += 1
    if asked.status_code != 200:
        yield "refused", asked.text, ""
        return
    event_id = asked.json()["event_id"]
    async with client.stream("GET", f"gradio_api/call/generate/{event_id}") as answer:
        seen.statuses[answer.status_code] += 1
        event = ""
        async for line in answer.aiter_lines():
            if line.startswith("event: "):
                event = line.removeprefix("event: ")
            elif line.startswith("data: ") and event != "heartbeat":
                yield event, json.loads(line.removeprefix("data: ")), event_id


async def whole(tab: Tab, wish: Wish, seen: Seen) -> dict[str, Any] | None:
    """The reply's last object, or None if there was none."""
    began = time.monotonic()
    async for event, data, _ in events(tab, wish, seen):
        if event == "complete":
            seen.seconds.append(time.monotonic() - began)
            return dict(data[0])
        if event in ("error", "refused"):
            seen.wrong.append(f"{event}: {data}")
    return None


async def check(tab: Tab, wish: Wish, alone: dict[Wish, str], seen: Seen) -> None:
    reply = await whole(tab, wish, seen)
    if reply is None:
        seen.wrong.append(f"lost: {wish}")
        return
    seen.outcomes["read to the end"] += 1
    if (reply["num_experts_per_tok"], reply["seed"]) != (wish.k, wish.seed):
        seen.wrong.append(f"mixed up: {wish} got k={reply['num_experts_per_tok']}, seed {reply['seed']}")
    elif reply["text"] != alone[wish]:
        seen.wrong.append(f"not the reply it gets alone: {wish}: {reply['text']!r} for {alone[wish]!r}")


async def leave(tab: Tab, wish: Wish, seen: Seen, rng: random.Random, stop: bool) -> None:
    """Reads a few events, then presses Stop or closes the tab."""
    patience = rng.randrange(1, 6)
    async for event, _, event_id in events(tab, wish, seen):
        patience -= 1
        if event == "complete" or patience == 0:
            if stop:
                pressed = await tab.client.post("gradio_api/cancel", json={
                    "session_hash": tab.session, "fn_index": 0, "event_id": event_id})
                seen.cancel_races += pressed.status_code == 500
            break
    seen.outcomes["stopped" if stop else "tab closed"] += 1
    tab.session = Tab(tab.client).session  # what the old one was still sent would be read as the next reply


async def visitor(url: str, number: int, until: float, alone: dict[Wish, str], seen: Seen) -> None:
    rng = random.Random(number)
    async with httpx.AsyncClient(base_url=url, timeout=180, trust_env=False) as client:
        tab = Tab(client)
        while time.monotonic() < until:
            wish, action = rng.choice(list(alone)), rng.choice(ACTIONS)
            try:
                if action in ("chat", "retry"):
                    await check(tab, wish, alone, seen)
                    if action == "retry":
                        await check(tab, wish, alone, seen)
                else:
                    await leave(tab, wish, seen, rng, stop=action == "stop")
            except httpx.HTTPError as error:
                seen.wrong.append(f"connection: {type(error).__name__}: {error}")
            await asyncio.sleep(rng.random() * PAUSE_S)


def probe(url: str, until: float, answers: Any) -> None:
    """In a process of its own, so that the visitors' work does not count: seconds that /healthz takes."""
    took = []
    with httpx.Client(trust_env=False, timeout=60) as client:
        while time.monotonic() < until:
            began = time.monotonic()
            client.get(f"{url}healthz").raise_for_status()
            took.append(time.monotonic() - began)
            time.sleep(0.1)
    answers.put(took)


async def memory(server: Server, until: float, sizes: list[int]) -> None:
    while time.monotonic() < until:
        sizes.append(server.resident_bytes())
        await asyncio.sleep(0.5)


async def quiet(url: str) -> dict[str, Any]:
    """/healthz once nothing runs or waits any more."""
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:
        for _ in range(120):
            told = dict((await client.get("healthz")).json())
            if told["running"] == told["waiting"] == 0:
                break
            await asyncio.sleep(0.5)
        return told


async def load(server: Server, visitors: int, seconds: float, say: Any) -> dict[str, Any]:
    """The figures; `wrong` lists every reply and answer that should not have been, `over` the limits of time and memory
    that were not kept."""
    seen, alone = Seen(), dict[Wish, str]()
    async with httpx.AsyncClient(base_url=server.url, timeout=180, trust_env=False) as client:
        for wish in wishes(min(24, 4 * visitors), seed=0):
            reply = await whole(Tab(client), wish, seen)
            assert reply is not None, seen.wrong
            alone[wish] = reply["text"]
    say(f"{len(alone)} requests answered alone; {visitors} visitors for {seconds:.0f} s")
    seen.seconds.clear()
    until = time.monotonic() + seconds
    answers: Any = multiprocessing.get_context("spawn").Queue()
    watcher = multiprocessing.get_context("spawn").Process(target=probe, args=(server.url, until, answers), daemon=True)
    watcher.start()
    sizes: list[int] = []
    await asyncio.gather(memory(server, until, sizes),
                         *(visitor(server.url, n, until, alone, seen) for n in range(visitors)))
    took = await asyncio.to_thread(answers.get)
    say("the last replies have ended")
    after = await quiet(server.url)
    async with httpx.AsyncClient(base_url=server.url, timeout=180, trust_env=False) as client:
        for wish in list(alone)[:4]:
            await check(Tab(client), wish, alone, seen)
    half = sizes[len(sizes) // 2:]
    growth = max(half) / half[0] - 1
    server_errors = sum(n for status, n in seen.statuses.items() if status >= 500)
    if server_errors:
        seen.wrong.append(f"{server_errors} answers with a status of 500 and more")
    if after["running"] or after["waiting"]:
        seen.wrong.append(f"afterwards {after['running']} run and {after['waiting']} wait with nobody there")
    over = []
    if growth > MEMORY_GROWTH:
        over.append(f"memory grew by {100 * growth:.1f} % over the last half")
    if max(took) > LOOP_BLOCKED_S:
        slow = sum(t > LOOP_BLOCKED_S for t in took)
        over.append(f"/healthz took more than {1000 * LOOP_BLOCKED_S:.0f} ms {slow} times of {len(took)}")
    return {"visitors": visitors, "seconds": seconds, **seen.outcomes,
            "median_reply_s": round(median(seen.seconds), 2), "slowest_reply_s": round(max(seen.seconds), 2),
            "server_errors": server_errors, "cancel_races": seen.cancel_races,
            "healthz_median_ms": round(1000 * median(took), 1), "healthz_slowest_ms": round(1000 * max(took), 1),
            "memory_mb": [size // 2**20 for size in sizes[::max(1, len(sizes) // 8)]],
            "memory_growth": round(growth, 4), "ended": after["ended"], "wrong": seen.wrong, "over": over}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.load", description=__doc__)
    parser.add_argument("--visitors", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=120)
    args = parser.parse_args()
    say = partial(print, file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder, serve(Path(folder) / "log.txt") as server:
        found = asyncio.run(load(server, args.visitors, args.seconds, say))
    for name, value in found.items():
        if name not in ("wrong", "over"):
            print(f"{name.replace('_', ' '):<22}{value}")
    for complaint in found["wrong"][:20] + found["over"]:
        print(f"NOT AS IT SHOULD BE: {complaint}")
    print(json.dumps(found))
    return 1 if found["wrong"] or found["over"] else 0


if __name__ == "__main__":
    sys.exit(main())
