"""Events -> RoutingTrace: which expert worked on which token, as arrays to plot, export and measure.

Knows nothing of models or pages. Shapes: T tokens (prompt first, then reply), L layers, E experts,
K experts selected for a token.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .events import Event, Finished, Piece, Prefilled, Routing, Started, Token, active_mask

Phase = Literal["all", "prefill", "decode"]
FORMAT_VERSION = 2


@dataclass(frozen=True)
class RoutingTrace:
    """The routing of one request.

    token_ids int64 [T]; texts: T strings; prompt_tokens: the first so many tokens are the prompt;
    router_logits float32 [T, L, E]; selected_experts uint8 [T, L, K]; routing_weights float32 [T, L, K];
    active_experts uint8 [T, L]: so many of the K, the first ones, worked on the token; all that is counted here
    counts them alone. num_experts_per_tok: the largest k, K; policy: what it does not say, in words.
    """

    token_ids: np.ndarray
    texts: tuple[str, ...]
    prompt_tokens: int
    router_logits: np.ndarray
    selected_experts: np.ndarray
    routing_weights: np.ndarray
    active_experts: np.ndarray
    num_experts_per_tok: int
    weighting: str
    seed: int
    finish_reason: str | None = None
    policy: str = ""

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_layers(self) -> int:
        return self.router_logits.shape[1]

    @property
    def num_experts(self) -> int:
        return self.router_logits.shape[2]

    def tokens(self, phase: Phase = "all") -> slice:
        """The tokens of a phase: the prompt's (prefill) or the reply's (decode)."""
        if phase == "prefill":
            return slice(0, self.prompt_tokens)
        if phase == "decode":
            return slice(self.prompt_tokens, None)
        return slice(None)

    def expert_counts(self, phase: Phase = "all") -> np.ndarray:
        """int64 [L, E]: how many tokens each expert worked on. A layer's row sums to its active experts."""
        return self._scatter(self.is_active, phase).astype(np.int64)

    def expert_weights(self, phase: Phase = "all") -> np.ndarray:
        """float64 [L, E]: the sum of the weights with which each expert's output was added."""
        return self._scatter(self.routing_weights * self.is_active, phase)

    @property
    def is_active(self) -> np.ndarray:
        """bool [T, L, K]: which of the selected experts worked."""
        return active_mask(self.active_experts, self.selected_experts.shape[-1])

    def mean_k(self, phase: Phase = "all") -> float:
        """Experts that worked on a token in a layer, on average over both; 0 without a token."""
        active = self.active_experts[self.tokens(phase)]
        return float(active.mean()) if active.size else 0.0

    def _scatter(self, values: np.ndarray, phase: Phase) -> np.ndarray:
        tokens = self.tokens(phase)
        chosen = self.selected_experts[tokens].astype(np.int64)  # [T, L, K]
        cell = chosen + np.arange(self.num_layers)[None, :, None] * self.num_experts
        flat = np.bincount(cell.ravel(), weights=values[tokens].ravel().astype(np.float64),
                           minlength=self.num_layers * self.num_experts)
        return flat.reshape(self.num_layers, self.num_experts)

    def router_probs(self, phase: Phase = "all") -> np.ndarray:
        """float32 [T, L, E]: softmax of the router's logits over all experts."""
        logits = self.router_logits[self.tokens(phase)]
        exp = np.exp(logits - logits.max(-1, keepdims=True))
        return exp / exp.sum(-1, keepdims=True)

    def routing_mass(self, phase: Phase = "all") -> np.ndarray:
        """float32 [T, L]: the share of the router's probability that the active experts hold, in [0, 1]."""
        chosen = self.selected_experts[self.tokens(phase)].astype(np.int64)
        probs = np.take_along_axis(self.router_probs(phase), chosen, -1)
        return (probs * self.is_active[self.tokens(phase)]).sum(-1)

    def routing_entropy(self, phase: Phase = "all") -> np.ndarray:
        """float32 [T, L]: entropy of the router's distribution in nats, at most ln E (all experts alike)."""
        p = self.router_probs(phase)
        return -(p * np.log(np.maximum(p, 1e-30))).sum(-1)

    def never_used(self, phase: Phase = "all") -> int:
        """How many of the L x E experts worked on no token."""
        return int((self.expert_counts(phase) == 0).sum())

    def text(self, phase: Phase = "all") -> str:
        return "".join(self.texts[self.tokens(phase)])

    def to_npz(self) -> bytes:
        """The trace as NPZ; `load_npz` reads it back. Arrays and shapes as above; texts as JSON."""
        file = io.BytesIO()
        arrays = {name: getattr(self, name) for name in
                  ("token_ids", "router_logits", "selected_experts", "routing_weights", "active_experts")}
        meta = {name: getattr(self, name) for name in
                ("prompt_tokens", "num_experts_per_tok", "policy", "weighting", "seed", "finish_reason")}
        np.savez_compressed(file, **arrays, texts=np.array(json.dumps(self.texts)),
                            routing_mass=self.routing_mass(), routing_entropy=self.routing_entropy(),
                            meta=np.array(json.dumps({"format_version": FORMAT_VERSION, **meta})))
        return file.getvalue()

    def to_json(self) -> str:
        """The trace as JSON: per token its text, active experts and their weights [L][k]; and the counts [L][E]."""
        active = lambda values, t: [row[:k] for row, k in  # noqa: E731
                                    zip(values[t].tolist(), self.active_experts[t].tolist(), strict=True)]
        weights = self.routing_weights.round(6)
        return json.dumps({
            "format_version": FORMAT_VERSION,
            "num_layers": self.num_layers, "num_experts": self.num_experts,
            "num_experts_per_tok": self.num_experts_per_tok, "weighting": self.weighting,
            "policy": self.policy, "mean_k": round(self.mean_k("decode"), 4),
            "seed": self.seed, "finish_reason": self.finish_reason, "prompt_tokens": self.prompt_tokens,
            "prompt_expert_counts": self.expert_counts("prefill").tolist(),
            "expert_counts": self.expert_counts("decode").tolist(),
            "tokens": [
                {"id": int(self.token_ids[t]), "text": self.texts[t],
                 "phase": "prefill" if t < self.prompt_tokens else "decode",
                 "selected_experts": active(self.selected_experts, t),
                 "routing_weights": active(weights, t),
                 "routing_mass": mass.round(6).tolist(), "routing_entropy": entropy.round(6).tolist()}
                for t, (mass, entropy) in enumerate(zip(self.routing_mass(), self.routing_entropy(), strict=True))
            ],
        }, ensure_ascii=True)


def load_npz(data: bytes) -> RoutingTrace:
    """The inverse of `RoutingTrace.to_npz`. Raises ValueError for another format version."""
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        meta = json.loads(str(file["meta"]))
        if meta.pop("format_version") != FORMAT_VERSION:
            raise ValueError(f"This trace was not written in format {FORMAT_VERSION}.")
        return RoutingTrace(token_ids=file["token_ids"], texts=tuple(json.loads(str(file["texts"]))),
                            router_logits=file["router_logits"], selected_experts=file["selected_experts"],
                            routing_weights=file["routing_weights"],
                            active_experts=file["active_experts"], **meta)


class TraceRecorder:
    """Collects a request's events as they come; `trace()` may be asked at any time after `Started`."""

    def __init__(self) -> None:
        self.started: Started | None = None
        self.finished: Finished | None = None
        self.new_tokens = 0
        self._token_ids: list[int] = []
        self._texts: list[str] = []
        self._routings: list[Routing] = []
        self._prompt_tokens = 0
        self._reply: list[str] = []
        self.tells_routing = True

    @property
    def text(self) -> str:
        """The reply so far."""
        return "".join(self._reply)

    def add(self, event: Event) -> None:
        if isinstance(event, Started):
            self.started = event
        elif isinstance(event, Prefilled):
            self._extend(event.token_ids, event.texts, event.routing)
            self._prompt_tokens += len(event.token_ids)
        elif isinstance(event, Token):
            self._extend((event.token_id,), (event.text,), event.routing)
            self.new_tokens += 1
            self._reply.append(event.text)
        elif isinstance(event, Piece):
            self.tells_routing = False
            self._reply.append(event.text)
        elif isinstance(event, Finished):
            self.finished = event
        else:
            raise TypeError(f"unknown event {type(event).__name__}")

    def _extend(self, token_ids: tuple[int, ...], texts: tuple[str, ...], routing: Routing) -> None:
        self._token_ids.extend(token_ids)
        self._texts.extend(texts)
        self._routings.append(routing)

    def trace(self) -> RoutingTrace:
        """Everything so far. Raises ValueError while nothing has been computed, and where no routing is told."""
        if self.started is None or not self._routings:
            raise ValueError("No token has been processed yet.")
        join = lambda name: np.concatenate([getattr(r, name) for r in self._routings])  # noqa: E731
        return RoutingTrace(
            token_ids=np.array(self._token_ids, dtype=np.int64), texts=tuple(self._texts),
            prompt_tokens=self._prompt_tokens, router_logits=join("router_logits"),
            selected_experts=join("selected_experts"), routing_weights=join("routing_weights"),
            active_experts=join("active_experts"), num_experts_per_tok=self.started.num_experts_per_tok,
            policy=self.started.policy, weighting=self.started.weighting, seed=self.started.seed,
            finish_reason=self.finished.finish_reason if self.finished else None)


def record(events: Iterable[Event]) -> RoutingTrace:
    """All events of one request -> its trace."""
    recorder = TraceRecorder()
    for event in events:
        recorder.add(event)
    return recorder.trace()
