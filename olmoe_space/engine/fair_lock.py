"""A lock that serves in the order of asking, so that no chat starves another of its next token."""

from __future__ import annotations

import threading
from collections import deque


class FairLock:
    """Context manager. threading.Lock may give itself back to the thread that just let go; this does not."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._held = False

    def __enter__(self) -> FairLock:
        with self._guard:
            if not self._held:
                self._held = True
                return self
            turn = threading.Event()
            self._waiting.append(turn)
        turn.wait()  # the one who leaves hands the lock over still held
        return self

    def __exit__(self, *_: object) -> None:
        with self._guard:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._held = False
