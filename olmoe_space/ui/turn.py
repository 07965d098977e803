"""One turn of a chat: the visitor's question, the reply as it streams, and what is to be said about it.

Knows nothing of the page's components or of the model: it is handed the stream of events. A turn belongs to
one visitor and is told to stop by setting a flag, so that Stop ends the computation at its next token and
everything computed so far is still there to show and to download.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr

from ..ask import Question
from ..events import Event, Finished, Piece, Token
from ..model_info import ModelInfo
from ..request import GenerationRequest
from ..trace import RoutingTrace, TraceRecorder
from .chat_history import Chat, message
from .live_view import ChatTotals, LiveFrames

log = logging.getLogger(__name__)

Stream = Callable[[GenerationRequest], Iterable[Event]]
Job = Callable[..., Iterable[Any]]
KEPT = 8  # earlier replies of a visitor whose traces stay in memory: megabytes for a long one
ENDINGS = {"stop": "", "length": "ended at max new tokens", "time": "ended at the time limit"}


class Turn:
    """A question and its reply.

    chat: the conversation up to and with the question. before: the conversation to go back to if there is
    no reply at all. typed: what the visitor typed for it, to be given back in that case; "" for a retry.
    former: the turn before, whose place this one takes: it hands on the replies that are kept.
    """

    def __init__(self, question: Question, chat: Chat, before: Chat, typed: str, info: ModelInfo,
                 former: Turn | None, updates_per_s: float) -> None:
        self.id = secrets.token_hex(8)
        self._earlier: list[Turn] = []
        if former is not None:
            self._earlier, former._earlier = former.kept()[-KEPT:], []
        self.question, self.chat, self.before, self.typed = question, chat, before, typed
        self.recorder = TraceRecorder()
        self.state = "waiting"  # then "running", then "done"
        self.refusal = ""       # why there is no reply
        self.failure = ""       # why the reply ended early
        self.stopped = False
        self.discarded = False  # the conversation was cleared: nothing of it is to be shown any more
        self._stop = threading.Event()
        self._pieces = 0  # tokens, or pieces of text
        self._started_at = self._first_at = self._last_at = 0.0
        choice = _reasons(question)
        self._chosen: Turn = self
        totals = former.totals() if former else None
        self._live = LiveFrames(info, totals, max_per_second=updates_per_s, choice=choice)

    def stop(self) -> None:
        """Ends the reply at its next token; a turn that still waits in the queue will not begin."""
        self._stop.set()
        if self.state == "waiting":
            self.state = "done"

    def discard(self) -> None:
        self.discarded = True
        self.stop()

    def run(self, stream: Stream) -> Generator[str, None, None]:
        """Computes the reply; yields the live view's value on a clock, and lastly the complete one."""
        if self.state != "waiting":
            return
        self.state = "running"
        self._started_at = time.perf_counter()
        try:
            with closing_iterator(stream(self.question.request)) as events:
                for event in events:
                    value = self._take(event)
                    if self._stop.is_set() and not isinstance(event, Finished):
                        self.stopped = True
                        break
                    if value:
                        yield value
        except Exception as error:
            self._failed(error)
        finally:
            self.state = "done"
        yield self._live.last()

    def _take(self, event: Event) -> str | None:
        self.recorder.add(event)
        if isinstance(event, (Token, Piece)):
            self._last_at = time.perf_counter()
            self._first_at = self._first_at or self._last_at
            self._pieces += 1
        return self._live.add(event)

    def _failed(self, error: Exception) -> None:
        """Before the first token it is a refusal, afterwards a failure that keeps what there is."""
        expected = isinstance(error, (ValueError, gr.Error))  # gr.Error: what keeps its words across a fork
        reason = str(getattr(error, "message", error))
        if not expected:
            reason = f"{type(error).__name__}: {reason}"
        if not expected:
            log.error("A reply failed: %s", reason, exc_info=error)
        if self._pieces:
            self.failure = reason
        else:
            self.refusal = reason if expected else f"The model could not answer. {reason}"

    @property
    def text(self) -> str:
        return self.recorder.text

    @property
    def has_reply(self) -> bool:
        return self._pieces > 0

    def shown(self) -> Chat:
        """The conversation as it is to be shown now."""
        if not self.has_reply:
            empty_reply = self.recorder.finished is not None  # the model chose to say nothing
            return [*self.chat, message("assistant", "", self.note())] if empty_reply else self.chat
        return [*self.chat, message("assistant", self.text, self.note(), self.id)]

    def note(self) -> str:
        """The reply's quiet line, and under it what had to be changed or went wrong."""
        started, finished = self.recorder.started, self.recorder.finished
        if started is None:
            return ""
        k = self._live.mean_k or started.num_experts_per_tok
        parts = [f"k {round(k, 1):g}", *self._rates(), (finished or started).answered_by]
        if self.state == "done":
            parts.append(f"mass {decimals(self._live.routing_mass)}" if self.recorder.tells_routing else "")
            parts.append("stopped" if self.stopped else ENDINGS[finished.finish_reason] if finished else "")
            if not self.has_reply:
                parts.append("the model ended the reply at once")
        lines = [" · ".join(part for part in parts if part), *started.notices]
        if self.failure:
            lines.append(f"The reply ended early: {self.failure.rstrip('.')}. Retry asks again.")
        return "\n".join(lines)

    def _rates(self) -> list[str]:
        """Speed and time to first token: the engine's own figures once it has ended, else as seen from here."""
        finished = self.recorder.finished
        if finished is not None:
            speed, first = finished.tokens_per_s, finished.ttft_s
        elif self._first_at:
            n, seconds = self._pieces, self._last_at - self._first_at
            countable = n > 1 and seconds > 0 and self.recorder.tells_routing  # else pieces, not tokens
            speed, first = (n - 1) / seconds if countable else 0.0, self._first_at - self._started_at
        else:
            return []
        return [f"{speed:.0f} tok/s" if speed else "", f"{first:.1f} s to first token"]

    def kept(self) -> list[Turn]:
        """The turns whose replies can be opened, oldest first: up to KEPT earlier ones and this."""
        return [*self._earlier, *([self] if self.has_reply and self.state == "done" else [])]

    def choose(self, turn_id: Any) -> Turn | None:
        """The kept turn of that id is what figures and files are of from now on; None: there is none."""
        found = next((turn for turn in self.kept() if turn.id == turn_id), None)
        if found is not None:
            self._chosen = found
        return found

    @property
    def chosen(self) -> Turn:
        return self._chosen

    def frame(self, latest: Turn) -> str:
        """The complete value of the live view for this turn, in the chat as `latest` has left it."""
        return self._live.last(of=latest._live.chat_totals())

    def trace(self) -> RoutingTrace | None:
        """What was computed so far; None if nothing was."""
        try:
            return self.recorder.trace()
        except ValueError:
            return None

    def totals(self) -> ChatTotals:
        """The chat's totals with this turn's."""
        return self._live.chat_totals()

    def summary(self) -> str:
        """What to know to have the same reply again."""
        started = self.recorder.started
        if started is None:
            return ""
        return " · ".join(filter(None, [f"seed {started.seed}", self._tokens(),
                                        f"{started.weighting.replace('_', '-')} weights", started.policy]))

    def _tokens(self) -> str:
        """How many there were; "" where it is not told."""
        told = self.recorder.finished or self.recorder.started
        assert told is not None
        new = self.recorder.new_tokens if self.recorder.tells_routing else getattr(told, "new_tokens", None)
        return "" if told.prompt_tokens is None or new is None else f"{told.prompt_tokens} prompt + {new} new tokens"


def _reasons(question: Question) -> dict[str, Any] | None:
    """Why k is what it is; None where it was simply set."""
    routing = question.request.routing
    if routing.rule is not None:
        return routing.rule.reasons(routing.k_min, routing.k_max)
    return question.choice.as_dict() if question.choice else None


@contextmanager
def closing_iterator(events: Iterable[Any]) -> Iterator[Iterator[Any]]:
    """Closes the stream however it is left (read to its end, stopped, failed, or the visitor went away): that is
    what ends the computation behind it."""
    iterator = iter(events)
    try:
        yield iterator
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()


def decimals(value: float) -> str:
    """.52, as a share is written in a narrow place; 1.00 in full."""
    return f"{value:.2f}".removeprefix("0")
