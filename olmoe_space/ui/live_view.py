"""The live expert-activation view: events -> small strings, and the component that draws them.

Use, once a request:

    frames = LiveFrames(info, chat)            # chat: the ChatTotals of earlier requests, or None
    for event in events:
        if (value := frames.add(event)):       # at most ten a second
            yield value                        # -> the component of `live_view(info)`
    yield frames.last()                        # however the stream ended; complete
    chat = frames.chat_totals()                # keep it in gr.State for the next request

A value is ASCII JSON that only the view's script reads; no template ever refers to it, because text
in a gr.HTML template is executed ({{...}}) or becomes markup (${...}). Texts of tokens reach the page
through textContent alone.

Knows nothing of models or of the chat. Shapes: T tokens, L layers, E experts, K selected for a token.
"""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from ..events import Event, Finished, Piece, Prefilled, Routing, Started, Token
from ..model_info import ModelInfo

EMPTY = ""
"""The component's value when there is nothing to show: the view explains itself and forgets the chat."""

MAX_PER_SECOND = 10.0
PROMPT_TOKENS_LISTED = 256  # the prompt's last ones get a map each (all are counted): bounds the last frame
FORMAT_VERSION = 1

_ASSETS = Path(__file__).resolve().parents[2] / "assets" / "live_view"
_SCRIPTS = ("scale.js", "frames.js", "words.js", "heatmap.js", "legend.js", "tokens.js", "figures.js",
            "chat_text.js", "main.js")  # one scope, in this order


# What was counted ----------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Totals:
    """Sums over tokens. counts int64 [L, E]; weights float64 [L, E]; mass, entropy: sums over tokens of the
    mean over layers (entropy in nats)."""

    counts: np.ndarray
    weights: np.ndarray
    tokens: int = 0
    mass: float = 0.0
    entropy: float = 0.0

    @classmethod
    def zero(cls, num_layers: int, num_experts: int) -> Totals:
        shape = (num_layers, num_experts)
        return cls(np.zeros(shape, np.int64), np.zeros(shape, np.float64))

    def plus(self, other: Totals) -> Totals:
        return Totals(self.counts + other.counts, self.weights + other.weights, self.tokens + other.tokens,
                      self.mass + other.mass, self.entropy + other.entropy)

    def minus(self, other: Totals) -> Totals:
        return Totals(self.counts - other.counts, self.weights - other.weights, self.tokens - other.tokens,
                      self.mass - other.mass, self.entropy - other.entropy)


@dataclass(frozen=True)
class ChatTotals:
    """Everything the experts did in a chat, prompts and replies apart. Never changed, only replaced; pickles."""

    prefill: Totals
    decode: Totals

    @classmethod
    def zero(cls, info: ModelInfo) -> ChatTotals:
        nothing = Totals.zero(info.num_layers, info.num_experts)
        return cls(nothing, nothing)


# Events -> values ----------------------------------------------------------------------------------------------------

class LiveFrames:
    """One request's events -> values for the live view.

    info: the loaded model. chat: totals of the chat's earlier requests; None at its start.
    max_per_second: upper limit of frames. choice: why k is what it is, as `adaptive.Choice.as_dict()` gives it
    (k, score, contributions, terms) or `rules.TokenRule.reasons` (rule, what); None in fixed mode. clock: seconds,
    for tests.

    A frame holds cumulative counts and the tokens since the frame before the previous one, so one that gets lost
    does no harm: the next has right counts and the lost tokens, and the last has every token.
    """

    def __init__(self, info: ModelInfo, chat: ChatTotals | None = None, max_per_second: float = MAX_PER_SECOND,
                 choice: Mapping[str, Any] | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.info = info
        self._chat = chat if chat is not None else ChatTotals.zero(info)
        if self._chat.decode.counts.shape != (info.num_layers, info.num_experts):
            raise ValueError(f"The chat's totals are of another model: {self._chat.decode.counts.shape} "
                             f"instead of {(info.num_layers, info.num_experts)} experts.")
        self._interval = 1.0 / max_per_second
        self._choice = dict(choice) if choice is not None else None
        self._clock = clock
        self._due = -float("inf")
        self._id = uuid.uuid4().hex[:12]  # tells the page that a new request began
        self._started: Started | None = None
        self._finished: Finished | None = None
        self._prefill = _Phase(info)
        self._decode = _Phase(info)
        self._sent = (0, 0)  # tokens of the reply before the last two frames: the next one starts at the first
        self._heads = 2  # frames with tokens of the reply that still carry what does not change any more: two, as
        # one may get lost

    def add(self, event: Event) -> str | None:
        """Takes note of the event; returns a value when a frame is due, else None. Raises TypeError for no event."""
        if isinstance(event, Started):
            self._started = event
        elif isinstance(event, Prefilled):
            self._prefill.add(event.texts, event.routing)
        elif isinstance(event, Token):
            self._decode.add((event.text,), event.routing)
        elif isinstance(event, Piece):
            pass  # nothing is told of the experts; what else the page shows keeps the same pace
        elif isinstance(event, Finished):
            self._finished = event
            return None  # `last` follows
        else:
            raise TypeError(f"unknown event {type(event).__name__}")
        now = self._clock()
        if now < self._due:
            return None
        self._due = now + self._interval
        return self._frame(complete=False)

    def last(self, of: ChatTotals | None = None) -> str:
        """The complete picture: exact sums and every token. To be sent when the stream has ended, however it did;
        EMPTY if nothing was computed. of: the totals of a chat that has gone on since, this request among them."""
        if not self._prefill.totals.tokens and not self._decode.totals.tokens:
            return EMPTY
        rest = of and ChatTotals(of.prefill.minus(self._prefill.totals), of.decode.minus(self._decode.totals))
        return self._frame(complete=True, chat=rest)

    def chat_totals(self) -> ChatTotals:
        """The chat's totals with this request's added."""
        return ChatTotals(self._chat.prefill.plus(self._prefill.totals), self._chat.decode.plus(self._decode.totals))

    @property
    def routing_mass(self) -> float:
        """Mean over the reply's tokens and layers of the share of the router's probability that was selected."""
        totals = self._decode.totals
        return totals.mass / totals.tokens if totals.tokens else 0.0

    @property
    def mean_k(self) -> float:
        """Experts that worked on a token in a layer, mean over the reply, or over the prompt before there is a reply;
        0 before there is either."""
        totals = self._decode.totals if self._decode.totals.tokens else self._prefill.totals
        return float(totals.counts.sum()) / (totals.tokens * self.info.num_layers) if totals.tokens else 0.0

    def _frame(self, complete: bool, chat: ChatTotals | None = None) -> str:
        chat = chat or self._chat
        started, info = self._started, self.info
        mean_k = self.mean_k or info.default_k
        first_prompt_token = max(0, self._prefill.totals.tokens - PROMPT_TOKENS_LISTED)
        frame: dict[str, Any] = {
            "version": FORMAT_VERSION, "request": self._id, "complete": complete,
            "finish_reason": self._finished.finish_reason if self._finished else None,
            "num_layers": info.num_layers, "num_experts": info.num_experts, "mean_k": mean_k,
            "weighting": started.weighting if started else "raw",
            "prompt_tokens": started.prompt_tokens if started else self._prefill.totals.tokens,
            "active_params": info.active_params(mean_k), "total_params": info.total_params,
            "prefill": _totals(self._prefill.totals, exact=complete),
            "decode": _totals(self._decode.totals, exact=complete),
            "reply": self._decode.chunk(0 if complete else self._sent[0]),
        }
        if self._heads or complete:
            frame["chat"] = {"prefill": _totals(chat.prefill, exact=True),
                             "decode": _totals(chat.decode, exact=True)}
            frame["prompt"] = self._prefill.chunk(first_prompt_token)
            frame["choice"] = self._choice
        self._heads -= bool(self._heads and self._decode.totals.tokens)
        self._sent = (self._sent[1], self._decode.totals.tokens)
        # "<" is escaped because gr.HTML warns of values that hold a script tag.
        return json.dumps(frame, ensure_ascii=True, separators=(",", ":"), default=_plain).replace("<", "\\u003c")


class _Phase:
    """The tokens of one phase, summed as they come."""

    def __init__(self, info: ModelInfo) -> None:
        self._counts = np.zeros((info.num_layers, info.num_experts), np.int64)
        self._weights = np.zeros((info.num_layers, info.num_experts), np.float64)
        self._offsets = np.arange(info.num_layers)[:, None] * info.num_experts  # [L, 1]: cell of expert 0
        self._tokens = 0
        self._mass = self._entropy = 0.0
        self._texts: list[str] = []
        self._routings: list[Routing] = []
        self._masses: list[float] = []
        self._entropies: list[float] = []
        self._ks: list[float] = []

    def add(self, texts: Sequence[str], routing: Routing) -> None:
        logits = routing.router_logits  # [T, L, E]
        if logits.shape[1:] != self._counts.shape:
            raise ValueError(f"routing of {logits.shape[1:]} experts, but the model has {self._counts.shape}")
        active = routing.is_active                                  # [T, L, K]
        cells = (routing.selected_experts + self._offsets)[active]  # one a token, layer and active expert
        size = self._counts.size
        self._counts += np.bincount(cells, minlength=size).reshape(self._counts.shape)
        self._weights += np.bincount(cells, weights=routing.routing_weights[active],
                                     minlength=size).reshape(self._counts.shape)
        shifted = logits - logits.max(-1, keepdims=True)
        exp = np.exp(shifted)
        norm = exp.sum(-1)                                          # [T, L]
        chosen = np.take_along_axis(exp, routing.selected_experts.astype(np.int64), -1) * active
        mass = (chosen.sum(-1) / norm).mean(-1)                             # [T]
        entropy = (np.log(norm) - np.einsum("tle,tle->tl", exp, shifted) / norm).mean(-1)   # [T]
        self._tokens += len(texts)
        self._mass += float(mass.sum())
        self._entropy += float(entropy.sum())
        self._texts.extend(texts)
        self._routings.append(routing)
        self._masses.extend(mass.tolist())
        self._entropies.extend(entropy.tolist())
        self._ks.extend(routing.active_experts.mean(-1).tolist())

    @property
    def totals(self) -> Totals:
        return Totals(self._counts, self._weights, self._tokens, self._mass, self._entropy)

    def chunk(self, start: int) -> dict[str, Any]:
        """The tokens from `start` on: texts, and what each expert did for each of them.

        Sparse (experts uint8 [T, L, K] and weights float16 [T, L, K], -1 where the expert was not active) or, where
        that is larger, dense (weights float16 [T, L, E], -1 likewise)."""
        texts = self._texts[start:]
        chunk: dict[str, Any] = {"from": start, "texts": texts,
                                 "mass": [round(x, 4) for x in self._masses[start:]],
                                 "entropy": [round(x, 4) for x in self._entropies[start:]],
                                 "ks": [round(x, 4) for x in self._ks[start:]]}
        if not texts:
            return chunk
        experts, weights = [], []
        missing = len(texts)
        for routing in reversed(self._routings):  # from the end: a frame carries the latest few
            experts.append(routing.selected_experts[-missing:])
            weights.append(np.where(routing.is_active, routing.routing_weights, -1)[-missing:])
            missing -= len(experts[-1])
            if missing <= 0:
                break
        selected = np.concatenate(experts[::-1])
        weight = np.concatenate(weights[::-1]).astype("<f2")
        num_layers, num_experts = self._counts.shape
        k = selected.shape[-1]
        if 3 * k <= 2 * num_experts:
            chunk.update(width=k, experts=_base64(selected.astype(np.uint8)), weights=_base64(weight))
        else:
            dense = np.full((len(texts), num_layers, num_experts), -1, "<f2")
            np.put_along_axis(dense, selected.astype(np.int64), weight, -1)
            chunk.update(weights=_base64(dense))
        return chunk


def _totals(totals: Totals, exact: bool) -> dict[str, Any]:
    """Totals for the page: counts as uint16 (uint32 if needed), weights as float16 (float32 if exact); the page
    tells them apart by their length."""
    counts = totals.counts.astype("<u2" if totals.counts.max(initial=0) < 2**16 else "<u4")
    large = totals.weights.max(initial=0) > 6e4  # beyond float16
    return {"tokens": totals.tokens, "mass": round(totals.mass, 5), "entropy": round(totals.entropy, 5),
            "counts": _base64(counts), "weights": _base64(totals.weights.astype("<f4" if exact or large else "<f2"))}


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")


def _plain(value: Any) -> Any:
    """numpy's numbers in a choice, for json."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (tuple, set, frozenset)):
        return list(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


# The component -------------------------------------------------------------------------------------------------------

def live_view(info: ModelInfo, elem_id: str = "live-view") -> gr.HTML:
    """The component; give it the values of `LiveFrames` (as an output with show_progress="hidden") or EMPTY.

    Needs nothing else: its style and script travel with it and ask no other host. It reads the page's `.dark`
    class and, if the page has a gr.Chatbot with elem_id "chat", shades tokens in its last reply too.
    """
    script = "\n".join((_ASSETS / name).read_text("utf-8") for name in _SCRIPTS)
    return gr.HTML(
        value=EMPTY, elem_id=elem_id, elem_classes=["live-view"],
        # The template is constant, so gradio never touches what the script has drawn.
        html_template=(_ASSETS / "view.html").read_text("utf-8"),
        # Not css_template: that one is compiled anew for every value.
        head=f"<style>{(_ASSETS / 'view.css').read_text('utf-8')}</style>",
        js_on_load=f'"use strict";\n{script}', apply_default_css=False, container=False, padding=False,
        visible=info.tells_routing,
        shape={"num_layers": info.num_layers, "num_experts": info.num_experts, "default_k": info.default_k,
               "active_params": info.active_params(info.default_k), "total_params": info.total_params},
    )
