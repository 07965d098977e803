"""One copy of the model under Ray Serve: jobs in by HTTP, their results out as frames (`wire`).

Knows nothing of the other replicas: how many there are, which one is asked and what becomes of one that does not
answer is Ray's business (`deployment`) and the caller's (`ray_engine`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from pickle import UnpicklingError
from typing import Any

import torch
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from ..engine.proof import prove
from ..lab.jobs import JOBS, computed
from ..library import Olmoe
from ..model import memory
from ..model.loader import load
from ..settings import Settings
from .computing import END as OVER
from .computing import Computations
from .errors import Refused
from .limits import Callers
from .wire import ALIVE, END, EVENTS, FAILED, NAME, REFUSED, dumps, frame, loads

log = logging.getLogger("olmoe_space")
ALIVE_EVERY_S = 1.0  # a caller that hears nothing for several of these takes the request elsewhere
PIECES_PER_S = 100  # of all replies of a core together: each costs Ray and the proxy a millisecond of another core
GPU_PIECES_PER_S = 400  # of all replies of a GPU, which has more cores beside it
REPLY_PIECES_PER_S = 50  # of one reply; more no eye sees


class Replica:
    """slots: jobs computed at once, as many as asked for and memory allows; more wait their turn here."""

    def __init__(self, settings: Settings, slots: int, cpus: int | None) -> None:
        """cpus: threads for a model on a CPU; None: the device's own business."""
        if cpus is not None:
            torch.set_num_threads(cpus)
        self._olmoe = Olmoe(load(settings), settings)
        self.slots = min(slots, self._olmoe.loaded.room.slots)
        self._computations = Computations(self.slots, waiting=slots)
        self._pieces_per_s = GPU_PIECES_PER_S if cpus is None else PIECES_PER_S * cpus
        self._silent_since: dict[object, float] = {}  # job -> when it began or last gave a result
        self._failed = False
        self._limit_s = settings.max_request_s
        self._callers = Callers(settings.api_keys)

    async def __call__(self, request: Request) -> Response:
        """POST dumps((name, arguments)), with a key where there are any -> frames. Closing the connection ends the job
        at its next result."""
        try:
            self._callers.who(request.headers.get("Authorization"), request.client.host if request.client else None)
        except Refused as refused:
            return JSONResponse(refused.body, refused.status, refused.headers)
        try:
            name, arguments = loads(await request.body())
        except (UnpicklingError, AttributeError, ImportError) as error:
            return JSONResponse({"error": f"This is no job: {error}"}, 400)
        return StreamingResponse(self._frames(name, arguments), media_type="application/octet-stream")

    async def _frames(self, name: str, arguments: tuple[Any, ...]) -> AsyncIterator[bytes]:
        """What is ready goes out at once, unless the last piece has just gone or many replies stream: then with what
        comes meanwhile."""
        now, next_at = asyncio.get_running_loop().time, 0.0
        async with self._computations.begun(lambda: self._watched(name, arguments)) as (arrivals, computing):
            yield frame(NAME, self.name().encode())
            while True:
                await asyncio.sleep(next_at - now())
                try:
                    results = await asyncio.wait_for(arrivals.some(), ALIVE_EVERY_S)
                except TimeoutError:
                    yield frame(ALIVE)
                    continue
                if events := [result for result in results if result is not OVER]:
                    yield frame(EVENTS, dumps(events))
                if len(events) < len(results):
                    yield await last_frame(computing)
                    return
                next_at = now() + max(1 / REPLY_PIECES_PER_S, len(self._silent_since) / self._pieces_per_s)

    def _watched(self, name: str, arguments: tuple[Any, ...]) -> Iterator[Any]:
        """The job's results; meanwhile it is known when it gave the last, and afterwards if it failed."""
        job, results = object(), computed(self._olmoe.engine, name, *arguments)
        try:
            self._silent_since[job] = time.monotonic()
            for result in results:
                self._silent_since[job] = time.monotonic()
                yield result
        except ValueError:
            raise  # a refusal
        except Exception:  # any, and also if who asked has left: check_health then proves the model anew
            self._failed = True
            log.exception("The job %s failed.", name)
            raise
        finally:
            self._silent_since.pop(job, None)
            results.close()

    def name(self) -> str:
        """Its place among the replicas, from 1. One that replaces another takes its place."""
        return str(serve.get_replica_context().rank.rank + 1)

    async def state(self) -> dict[str, Any]:
        """Plain values for /healthz and the page, and what a front end must know of the model."""
        return {"replica": self.name(), "busy": len(self._silent_since), "slots": self.slots,
                "memory_bytes": memory.resident_bytes(), "host": socket.gethostname(), "pid": os.getpid(),
                "model": vars(self._olmoe.info), "jobs": [name for name, job in JOBS.items() if job.on_device]}

    def check_health(self) -> None:
        """Raises if a job has been silent for longer than any may take, or if after a failure the model does not
        compute what it should any more: Ray then starts another in its place."""
        silent = max((time.monotonic() - since for since in list(self._silent_since.values())), default=0.0)
        if silent > self._limit_s:
            raise RuntimeError(f"A job has given nothing for {silent:.0f} s.")
        if self._failed:
            prove(self._olmoe.loaded.model, self._olmoe.engine.kernels)
            self._failed = False


async def last_frame(computing: Future[None]) -> bytes:
    """How it ended, for who asked."""
    try:
        await asyncio.wrap_future(computing)
        return frame(END)
    except ValueError as refusal:
        return frame(REFUSED, str(refusal).encode())
    except Exception as error:  # whatever it was is raised where it was asked for; _watched has logged it
        return frame(FAILED, f"{type(error).__name__}: {error}".encode())
