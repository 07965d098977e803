"""What the measurements of the page have in common: each belongs to one visitor, computes once, is stopped by a flag
and keeps what it has."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr

log = logging.getLogger(__name__)


class Stoppable:
    """refusal: why nothing (more) came. state: "waiting", "running", "done". stopped: it was ended before its end."""

    def __init__(self) -> None:
        self.state, self.refusal, self.stopped = "waiting", "", False
        self._stop = threading.Event()

    def stop(self) -> None:
        """Ends it at its next result; what still waits in the queue will not begin."""
        self._stop.set()
        if self.state == "waiting":
            self.state = "done"

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Around the computation. Whatever goes wrong in it is told to the visitor, who keeps what came before."""
        self.state = "running"
        try:
            yield
        except Exception as error:
            self.refusal = reason_of(error)
        finally:
            self.state = "done"


def reason_of(error: Exception) -> str:
    """What to tell the visitor; what nobody foresaw is logged too."""
    reason = str(getattr(error, "message", error))
    if isinstance(error, (ValueError, gr.Error)):  # gr.Error: what keeps its words across a fork
        return reason
    log.error("A measurement failed: %s", reason, exc_info=error)
    return f"The model could not do this. {type(error).__name__}: {reason}"
