"""Events -> a reply in OpenAI's words: chunks as it is written, or one object.

Beside OpenAI's own fields there is `olmoe`, in the first chunk what Started tells (num_experts_per_tok, weighting,
seed, policy, max_new_tokens, prompt_tokens, notices; in adaptive mode choice, of several engines answered_by), in the
last chunk and the whole object also finish_reason ("stop", "length" or "time"), mean_k, ttft_s and tokens_per_s.

On request the message, or each chunk's delta, has `routed_experts`, a list with an object for each token of the reply
(see `routed_experts`), and `prompt_routed_experts`, the same for the prompt's tokens, special ones included. The token
by which the model ends a reply is not of it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

from ..events import Event, Finished, Piece, Prefilled, Started, Token
from .openai_request import Asked
from .routed_experts import as_json

ENDINGS = {"stop": "stop", "length": "length", "time": "length"}
OUT_OF_TIME = "The reply was ended at this server's time limit."


class Reply:
    """One reply on its way. `add` each event; `ended` says that the rest is not needed: a stop text was reached."""

    def __init__(self, asked: Asked, model: str) -> None:
        self._asked, self._model = asked, model
        self._id, self._created = f"chatcmpl-{secrets.token_hex(12)}", int(time.time())
        self._text = UntilStop(asked.stop)
        self._started: Started | None = None
        self._finished: Finished | None = None
        self._message: dict[str, Any] = {"role": "assistant", "content": ""}
        self.new_tokens = self._pieces = 0
        self._active = 0.0  # experts a layer, summed over the reply's tokens

    @property
    def ended(self) -> bool:
        return self._text.reached

    @property
    def tokens(self) -> int:
        """The prompt's and the reply's so far; where they are not told, of each piece of text one at least."""
        told = self._finished or self._started
        return max(self.new_tokens, self._pieces) + ((told.prompt_tokens or 0) if told else 0)

    def add(self, event: Event) -> list[dict[str, Any]]:
        """The chunks that are due."""
        if isinstance(event, Started):
            self._started = event
            return [self._chunk({"role": "assistant", "content": ""}) | {"olmoe": self._about()}]
        if isinstance(event, Prefilled):
            return self._grown("", "prompt_routed_experts", event)
        if isinstance(event, Token):
            self.new_tokens += 1
            self._active += float(event.routing.active_experts.mean())
            return self._grown(self._text.add(event.text), "routed_experts", event)
        if isinstance(event, Piece):
            self._pieces += 1
            return self._grown(self._text.add(event.text))
        if isinstance(event, Finished):
            self._finished = event
            self.new_tokens = event.new_tokens or self.new_tokens
            return self._grown(self._text.rest())
        raise TypeError(f"unknown event {type(event).__name__}")

    def last(self) -> list[dict[str, Any]]:
        """The chunks that end the stream."""
        end = self._chunk({}, self._finish_reason) | {"olmoe": self._about()}
        return [end, *([self._envelope("chat.completion.chunk") | {"choices": [], "usage": self._usage()}]
                       if self._asked.include_usage else [])]

    def whole(self) -> dict[str, Any]:
        choice = {"index": 0, "message": self._message | {"refusal": None}, "logprobs": None,
                  "finish_reason": self._finish_reason}
        return self._envelope("chat.completion") | {"choices": [choice], "usage": self._usage(),
                                                    "olmoe": self._about()}

    def _grown(self, text: str, where: str = "", of: Prefilled | Token | None = None) -> list[dict[str, Any]]:
        delta: dict[str, Any] = {"content": text} if text else {}
        self._message["content"] += text
        if of is not None and getattr(self._asked, where):
            delta[where] = as_json(of, self._asked.router_logits)
            self._message.setdefault(where, []).extend(delta[where])
        return [self._chunk(delta)] if delta else []

    @property
    def _finish_reason(self) -> str:
        return ENDINGS[self._finished.finish_reason] if self._finished and not self.ended else "stop"

    def _about(self) -> dict[str, Any]:
        started, finished, choice = self._started, self._finished, self._asked.question.choice
        assert started is not None  # it is the first event
        about: dict[str, Any] = {
            "num_experts_per_tok": started.num_experts_per_tok, "weighting": started.weighting, "seed": started.seed,
            "policy": started.policy, "prompt_tokens": started.prompt_tokens, "max_new_tokens": started.max_new_tokens,
            "notices": list(started.notices)}
        if by := (finished or started).answered_by:
            about["answered_by"] = by
        if choice is not None:
            about["choice"] = choice.as_dict()
        if self._active:
            about["mean_k"] = round(self._active / self.new_tokens, 4)
        if finished:
            about |= {"finish_reason": finished.finish_reason, "ttft_s": round(finished.ttft_s, 4),
                      "tokens_per_s": round(finished.tokens_per_s, 2)}
            if finished.finish_reason == "time":
                about["notices"].append(OUT_OF_TIME)
        elif self.ended:
            about["finish_reason"] = "stop"
        return about

    def _usage(self) -> dict[str, int] | None:
        """None where it is not told."""
        told = self._finished or self._started
        if told is None or told.prompt_tokens is None:
            return None
        return {"prompt_tokens": told.prompt_tokens, "completion_tokens": self.new_tokens,
                "total_tokens": told.prompt_tokens + self.new_tokens}

    def _envelope(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model}

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        return self._envelope("chat.completion.chunk") | {
            "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}]}


class UntilStop:
    """Text as it comes -> the text up to the first of `stops`. What may be the beginning of one is held back."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.reached = False

    def add(self, text: str) -> str:
        if self.reached:
            return ""
        held = self._held + text
        found = [at for stop in self._stops if (at := held.find(stop)) >= 0]
        self.reached = bool(found)
        end = min(found) if found else len(held) - max((_overlap(held, stop) for stop in self._stops), default=0)
        self._held = "" if found else held[end:]
        return held[:end]

    def rest(self) -> str:
        """What was held back, when no more comes."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` begin `stop`."""
    return next(n for n in range(min(len(text), len(stop) - 1), -1, -1) if stop.startswith(text[len(text) - n:]))
