"""Ctrl-C and SIGTERM end a command early; what it has by then is kept.

    with until_stopped() as ending:
        for result in work:
            results.append(result)
    print(results)              # all of them, or those so far
    return ending.exit_code     # 0, 130 (Ctrl-C) or 143 (SIGTERM): 128 + the signal, as shells say it
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

STOPPED = "stopped"


class Terminated(KeyboardInterrupt):
    """SIGTERM, told like Ctrl-C, so that one `except` serves both."""


@dataclass
class Ending:
    exit_code: int = 0

    @property
    def early(self) -> bool:
        return self.exit_code != 0


def exit_code(stop: KeyboardInterrupt) -> int:
    return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)


@contextmanager
def until_stopped() -> Iterator[Ending]:
    """The work that may be stopped. What follows the block runs in any case and says how it ended."""
    ending = Ending()
    try:
        yield ending
    except KeyboardInterrupt as stop:
        ending.exit_code = exit_code(stop)
        print(f"\n{STOPPED}", file=sys.stderr)


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM raises `Terminated` within."""
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(*_: object) -> NoReturn:
    raise Terminated
