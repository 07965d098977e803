"""Requests of this process: how many run, how each ended, and a log line for each that never holds its text."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from .events import Finished, Started, Token

log = logging.getLogger("olmoe_space.requests")


class Traffic:
    """Counts and logs what passes through `watched`.

    refusals: errors that say no to a request and blame nobody; all others are failures.
    """

    def __init__(self, refusals: tuple[type[Exception], ...] = (ValueError,)) -> None:
        self._refusals = refusals
        self._lock = threading.Lock()
        self._number = 0
        self._running = 0
        self._ended: Counter[str] = Counter()
        self._began = time.monotonic()

    def watched(self, job: str, results: Iterable[Any]) -> Iterator[Any]:
        """The results, unchanged. At their end, or when their reader leaves, a line is logged: a JSON object with id,
        job, outcome ("stop", "length", "time", "done", "left", "refused", "failed"), seconds, and for a reply k,
        weighting, policy, prompt_tokens, new_tokens and ttft_s."""
        with self._lock:
            self._number += 1
            self._running += 1
            line: dict[str, Any] = {"id": self._number, "job": job, "outcome": "left", "new_tokens": 0}
        began = time.monotonic()
        try:
            for result in results:
                _note(line, result)
                yield result
            if line["outcome"] == "left":
                line["outcome"] = "done"
        except Exception as error:
            line |= {"outcome": "refused" if isinstance(error, self._refusals) else "failed",
                     "error": type(error).__name__}
            raise
        finally:
            close = getattr(results, "close", None)
            if close is not None:
                close()
            line["seconds"] = round(time.monotonic() - began, 3)
            with self._lock:
                self._running -= 1
                self._ended[line["outcome"]] += 1
            log.info(json.dumps(line))

    def counts(self) -> dict[str, Any]:
        """running, and how many ended how since the start; uptime_s."""
        with self._lock:
            return {"running": self._running, "ended": dict(self._ended),
                    "uptime_s": round(time.monotonic() - self._began, 1)}


def _note(line: dict[str, Any], event: Any) -> None:
    """What a reply's events say of it. Rows of one batch come as (row, event); the first row stands for all."""
    if isinstance(event, tuple) and len(event) == 2:
        row, event = event
        if row != 0 and not isinstance(event, Token):
            return
    if isinstance(event, Started):
        line |= {"k": event.num_experts_per_tok, "weighting": event.weighting, "policy": event.policy,
                 "prompt_tokens": event.prompt_tokens}
    elif isinstance(event, Token):
        line["new_tokens"] += 1
    elif isinstance(event, Finished):
        line |= {"outcome": event.finish_reason, "new_tokens": event.new_tokens, "ttft_s": round(event.ttft_s, 4)}
