"""Blocking results in an event loop: each computation has a thread to itself, and ends when nobody reads it."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from typing import Any, Generic, TypeVar

T = TypeVar("T")
END = object()


class Full(Exception):
    """As many compute and wait as may."""


class Gone(Exception):
    """The client left before it had its answer."""


class Arrivals(Generic[T]):
    """From a thread to one reader in the event loop, which is woken only if it waits: 32 replies of a GPU bring
    thousands of results a second, and a wake-up each cost more than packing them."""

    def __init__(self) -> None:
        self._loop, self._news = asyncio.get_running_loop(), asyncio.Event()
        self._there: deque[T] = deque()
        self._is_awaited = False

    def put(self, result: T) -> None:
        """From any thread."""
        self._there.append(result)
        if self._is_awaited:
            self._is_awaited = False
            self._loop.call_soon_threadsafe(self._news.set)

    async def some(self) -> list[T]:
        """What has come since, at least one. Nothing is lost if this is cancelled."""
        while not self._there:
            self._news.clear()
            self._is_awaited = True
            if not self._there:  # nothing came before `put` could see that somebody waits
                await self._news.wait()
        self._is_awaited = False
        return [self._there.popleft() for _ in range(len(self._there))]


class Computations:
    """Up to `at_once` of them run, up to `waiting` more wait for a place."""

    def __init__(self, at_once: int, waiting: int) -> None:
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="reply")
        self._most = at_once + waiting
        self._here = 0
        self._count = threading.Lock()

    async def results(self, begin: Callable[[], Iterable[T]]) -> AsyncGenerator[T, None]:
        """What `begin()` yields, and what it raises. Closing this ends the computation, as leaving `begun` does. Raises
        Full."""
        async with self.begun(begin) as (arrivals, computing):
            while True:
                for result in await arrivals.some():
                    if result is END:
                        await asyncio.wrap_future(computing)
                        return
                    yield result

    @asynccontextmanager
    async def begun(self, begin: Callable[[], Iterable[Any]]) -> AsyncIterator[tuple[Arrivals[Any], Future[None]]]:
        """What `begin()` yields as it arrives, then END; and the computation, which has its error. Leaving ends it at
        its next result, in its own thread. Raises Full."""
        with self._count:
            if self._here >= self._most:
                raise Full
            self._here += 1
        arrivals, left = Arrivals[Any](), threading.Event()

        def compute() -> None:
            with ExitStack() as ending:
                ending.callback(tell, END)
                results = iter(begin())
                close = getattr(results, "close", None)
                if close is not None:
                    ending.callback(close)
                for result in results:
                    if left.is_set():
                        return
                    tell(result)

        def tell(result: Any) -> None:
            if not left.is_set():
                arrivals.put(result)

        computing = self._threads.submit(compute)
        computing.add_done_callback(lambda _: self._ended())
        try:
            yield arrivals, computing
        finally:
            left.set()
            computing.cancel()  # if it still waits

    def _ended(self) -> None:
        with self._count:
            self._here -= 1


async def while_connected(receive: Callable[[], Awaitable[Any]], work: Awaitable[T]) -> T:
    """What `work` returns; if the client leaves first it is cancelled, and Gone raised. The request's body must have
    been read."""
    async def left() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(left())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Gone
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)
