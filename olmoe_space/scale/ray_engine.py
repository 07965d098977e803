"""The engine behind `python -m olmoe_space serve`, as seen from a front end: jobs go to a replica over HTTP, and to
another if that one falls silent.

HTTP and not Ray's own handles: Ray Client does not stream, and a driver must run on a node of the cluster and ends with
that node. This needs neither Ray here nor a place in the cluster's network.

What makes the change invisible: a reply is a function of its request and seed, so a request without a seed is given one
before it is sent, and what another replica tells anew is compared with what was shown and skipped.
"""

from __future__ import annotations

import json
import logging
import random
import secrets
import socket
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any

from ..events import Finished, Prefilled, Started, Token
from ..model_info import ModelInfo
from ..request import GenerationRequest
from .wire import END, EVENTS, FAILED, NAME, REFUSED, Frames, dumps, loads

log = logging.getLogger("olmoe_space")
SILENCE_S = 5.0  # without a sign of life; replicas give one a second
PATIENCE_S = 60.0  # without anything new, however many replicas are asked; a node that is cut off is given up after 30
MOVES = 3  # replicas lost by one request: more, and the request itself may be what ends them
PAUSE_S = 0.5  # before the next try
PROBE_S = 2.0
JOB_PATH, STATE_PATH, ALIVE_PATH = "/engine", "/replicas", "/-/healthz"
LOST = (OSError, HTTPException)  # of a connection; TimeoutError is an OSError


class Lost(Exception):
    """Whoever computed the job is gone, or silent."""


class Full(ValueError):
    """The queue takes nobody more."""


class RayEngine:
    """See `engines.RemoteEngine`. Thread-safe: each job has a connection of its own."""

    def __init__(self, address: str, max_wait_s: float, key: str | None = None,
                 told: dict[str, Any] | None = None) -> None:
        """address: ray://HOST:PORT[,HOST:PORT…], proxies of one deployment, rays:// for TLS. max_wait_s: for a free
        slot. key: bearer token. told: what STATE_PATH tells; None: it is asked. Raises ValueError if nobody answers."""
        scheme, _, hosts = address.partition("://")
        self.address = address
        self._connection = HTTPSConnection if scheme == "rays" else HTTPConnection
        self._hosts = [_host_and_port(host, address) for host in hosts.split(",")]
        self._at = random.randrange(len(self._hosts))  # front ends spread over the proxies
        self._max_wait_s = max_wait_s
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._lock = threading.Lock()
        self._told, self._told_at = told or {}, time.monotonic()
        told = told or self._first_state()
        self.info = ModelInfo(**told["model"])
        self.jobs = frozenset(told["jobs"])
        self.slots: int = told["most_slots"]

    def run(self, name: str, *arguments: Any) -> Iterator[Any]:
        """Raises ValueError for what the job refuses, a full queue, and if nobody answers any more."""
        call = dumps((name, tuple(seeded(argument) for argument in arguments)))
        shown: list[Any] = []  # a mark of each result that was handed out
        answered: list[str] = []
        stuck_since = None
        while True:
            before = len(shown)
            try:
                yield from self._once(call, shown, answered)
                return
            except Lost as loss:
                if stuck_since is None or len(shown) > before:
                    stuck_since = time.monotonic()
                log.warning("%s after %d results of %s; asking again.", loss, len(shown), name)
                if len(answered) > MOVES or time.monotonic() - stuck_since > PATIENCE_S:
                    raise ValueError(_gave_up(bool(shown))) from loss
            self._at += 1
            time.sleep(PAUSE_S)

    def state(self) -> dict[str, Any]:
        """engine: its address. replicas: of each its name, busy and slots, memory_bytes and host, as they were
        `told_s_ago` seconds ago: when all of them last answered."""
        try:
            self._ask_state()
        except Lost:
            self._at += 1
        with self._lock:
            return {"engine": self.address, "told_s_ago": round(time.monotonic() - self._told_at, 1),
                    "replicas": self._told["replicas"]}

    def _once(self, call: bytes, shown: list[Any], answered: list[str]) -> Iterator[Any]:
        """What the job yields after those that are shown. Raises Lost if it is cut off or silent."""
        number = 0
        with closing(self._frames(call)) as frames:
            for kind, payload in frames:
                if kind == NAME:
                    answered.append(payload.decode())
                elif kind == REFUSED:
                    raise ValueError(payload.decode())
                elif kind == FAILED:
                    raise RuntimeError(payload.decode())
                elif kind == EVENTS:
                    for event in loads(payload):
                        number += 1
                        if number > len(shown):
                            shown.append(mark(event))
                            yield by(event, answered)
                        elif mark(event) != shown[number - 1]:
                            raise ValueError("Another replica would have gone on with another text than the one shown, "
                                             "so the reply ends here. Ask again.")
                elif kind == END:
                    return
        raise Lost("The connection ended")

    def _frames(self, call: bytes) -> Generator[tuple[bytes, bytes], None, None]:
        """Closing it closes the connection, which ends the job."""
        host, port = self._hosts[self._at % len(self._hosts)]
        with closing(self._connection(host, port, timeout=SILENCE_S)) as connection:
            try:
                connection.request("POST", JOB_PATH, call, self._headers)
                answer = self._head(connection)
                if answer.status != 200:
                    self._refused(answer)
                frames = Frames()
                while piece := answer.read1(65536):
                    yield from frames.feed(piece)
            except LOST as error:
                raise Lost(f"{host}:{port} {_what_happened(error)}") from error

    def _head(self, connection: HTTPConnection) -> HTTPResponse:
        """The answer's head comes when a replica has a slot. Until then the proxy is silent, and a thread looks whether
        that is right. (Not `select`: under TLS a socket is readable without an answer.) Raises Full; Lost if not."""
        sock, came, wrong = connection.sock, threading.Event(), list[Exception]()
        sock.settimeout(self._max_wait_s)

        def watch() -> None:
            while not came.wait(SILENCE_S):
                try:
                    self._look(connection.host, connection.port)
                except (Lost, *LOST) as error:
                    wrong.append(error)
                    sock.shutdown(socket.SHUT_RDWR)  # ends the waiting below
                    return

        threading.Thread(target=watch, daemon=True).start()
        try:
            answer = connection.getresponse()
        except TimeoutError:
            raise Full(f"No slot became free in {self._max_wait_s:.0f} s. Try again later.") from None
        except LOST as error:
            raise wrong[0] if wrong else error from None
        finally:
            came.set()
        sock.settimeout(SILENCE_S)
        return answer

    def _look(self, host: str, port: int) -> None:
        """Raises one of LOST if nobody answers there, Lost if a replica is silent: it may have the request. That there
        are free slots proves nothing: the queue fills them a moment later."""
        with closing(self._connection(host, port, timeout=PROBE_S)) as probe:
            probe.request("GET", ALIVE_PATH)
            probe.getresponse().read()
        try:
            is_silent = all(self._ask_state()["told_s_ago"] > SILENCE_S for _ in range(2))  # twice: one may be busy
        except Lost:
            return  # whoever tells is away; that says nothing of the replicas
        if is_silent:
            raise Lost("A replica is silent")

    def _refused(self, answer: HTTPResponse) -> None:
        said = answer.read(2000).decode(errors="replace")
        if answer.status == 401:
            raise ValueError(f"{self.address} refuses the key. Set OLMOE_ENGINE_KEY to one of its OLMOE_API_KEYS.")
        if answer.status == 400:
            raise ValueError(f"{self.address} does not understand this front end: both must be of the same version.")
        if answer.status in (429, 503) and "backpressure" in said:
            raise Full("Too many visitors are waiting. Try again in a minute.")
        raise Lost(f"The proxy answered {answer.status} ({said.strip()[:200]})")

    def _first_state(self) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self._ask_state()
            except Lost as loss:
                if time.monotonic() > until:
                    raise ValueError(f"OLMOE_ENGINE={self.address} does not answer ({loss}). Is "
                                     "`python -m olmoe_space serve` running, and reachable from here?") from loss
                self._at += 1
                time.sleep(PAUSE_S)

    def _ask_state(self) -> dict[str, Any]:
        host, port = self._hosts[self._at % len(self._hosts)]
        try:
            with closing(self._connection(host, port, timeout=PROBE_S)) as connection:
                connection.request("GET", STATE_PATH, headers=self._headers)
                answer = connection.getresponse()
                if answer.status != 200:
                    self._refused(answer)
                told: dict[str, Any] = json.loads(answer.read())
        except LOST as error:
            raise Lost(f"{host}:{port} {_what_happened(error)}") from error
        with self._lock:
            self._told, self._told_at = told, time.monotonic() - told["told_s_ago"]
        return told


def seeded(argument: Any) -> Any:
    """The same, with a seed in every request that has none: asked for twice, it gives the same reply."""
    if isinstance(argument, GenerationRequest) and argument.sampling.seed is None:
        return replace(argument, sampling=replace(argument.sampling, seed=secrets.randbelow(2**32)))
    if type(argument) in (list, tuple):
        return type(argument)(map(seeded, argument))
    return argument


def mark(event: Any) -> Any:
    """What must be the same when a result is computed again; of a measurement, that it is of the same kind."""
    if type(event) is tuple and len(event) == 2:
        return event[0] if type(event[0]) is int else None, mark(event[1])
    if isinstance(event, Started):
        return event.seed, event.prompt_tokens, event.num_experts_per_tok, event.weighting, event.policy
    if isinstance(event, Prefilled):
        return event.token_ids
    if isinstance(event, Token):
        return event.token_id
    return type(event).__name__


def by(event: Any, answered: list[str]) -> Any:
    """The event, if it begins or ends a reply with the replicas that computed it so far, in words."""
    if type(event) is tuple and len(event) == 2:
        return event[0], by(event[1], answered)
    if isinstance(event, (Started, Finished)):
        return replace(event, answered_by="replica " + ", then ".join(answered))
    return event


def _host_and_port(text: str, address: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"OLMOE_ENGINE must be ray://HOST:PORT, several separated by commas; got {address!r}.")
    return host.strip("[]"), int(port)


def _what_happened(error: BaseException) -> str:
    return "is silent" if isinstance(error, TimeoutError) else f"cannot be reached ({error or type(error).__name__})"


def _gave_up(has_begun: bool) -> str:
    return (f"{'The machine that wrote this reply is gone' if has_begun else 'No machine answers'}, and no other took "
            "over. Ask again in a minute.")
