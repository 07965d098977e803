"""What the engine emits while it answers, in this order:

    Started, Prefilled+ , Token*, Finished

or, where another server computes that tells neither its tokens nor their experts: Started, Piece*, Finished.
Every event is CPU data that pickles: on ZeroGPU it crosses from a forked worker to the server.
A token's routing is that of the token as *input*: the experts that processed it. So a token is
emitted once it has been fed back to the model, and every token of the reply has its routing.

Shapes: T tokens, L layers, E experts a layer, K experts selected for a token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

FinishReason = Literal["stop", "length", "time"]


@dataclass(frozen=True)
class Routing:
    """The routers' work on T consecutive tokens, as it happened."""

    router_logits: np.ndarray     # float32 [T, L, E], before the softmax
    selected_experts: np.ndarray  # uint8   [T, L, K], most probable first
    routing_weights: np.ndarray   # float32 [T, L, K], the factors applied to the experts' outputs
    active_experts: np.ndarray = None  # type: ignore[assignment]  # uint8 [T, L]: so many of the K, the first ones,
    # worked on the token in that layer; the others have weight 0 and count for nothing. Not given: all K

    def __post_init__(self) -> None:
        if self.active_experts is None:
            tokens, layers, width = self.selected_experts.shape
            object.__setattr__(self, "active_experts", np.full((tokens, layers), width, np.uint8))

    @property
    def is_active(self) -> np.ndarray:
        """bool [T, L, K]: which of the selected experts worked."""
        return active_mask(self.active_experts, self.selected_experts.shape[-1])


def active_mask(active_experts: np.ndarray, width: int) -> np.ndarray:
    """How many experts worked [...] -> which of `width` places did, bool [..., width]."""
    return np.arange(width) < active_experts[..., None]


@dataclass(frozen=True)
class Started:
    """The request as the engine understood it, before any computation."""

    prompt_tokens: int | None  # None: not known, or not yet
    num_experts_per_tok: int  # the largest, where a rule chooses it for each token
    weighting: str
    seed: int
    max_new_tokens: int     # as asked, or what is left of the context window
    notices: tuple[str, ...]  # what had to be changed, in words for the visitor
    policy: str = ""        # what k alone does not say, in words: a rule per token, scaled experts
    answered_by: str = ""   # who computes it, where there are several: "replica 2 of 2"


@dataclass(frozen=True)
class Prefilled:
    """A chunk of the prompt has gone through the model."""

    token_ids: tuple[int, ...]
    texts: tuple[str, ...]  # one a token; joined over the prompt they are its text
    routing: Routing


@dataclass(frozen=True)
class Token:
    """One token of the reply. `text` is "" while a character's bytes are incomplete."""

    token_id: int
    text: str
    routing: Routing  # T = 1


@dataclass(frozen=True)
class Piece:
    """Some text of the reply, of one or more tokens."""

    text: str


@dataclass(frozen=True)
class Finished:
    """The reply has ended.

    finish_reason: "stop": the model ended it; "length": max_new_tokens or the context is full;
        "time": the time limit of a request.
    ttft_s: seconds from the request's start to its first token. decode_s: seconds from the first
        token to the last. tokens_per_s: (new_tokens - 1) / decode_s, 0 if there were fewer than two.
    prompt_tokens, new_tokens: None where they are not told.
    """

    finish_reason: FinishReason
    prompt_tokens: int | None
    new_tokens: int | None
    ttft_s: float
    decode_s: float
    answered_by: str = ""  # who computed it; more than one if the first was lost on the way

    @property
    def tokens_per_s(self) -> float:
        return ((self.new_tokens or 0) - 1) / self.decode_s if (self.new_tokens or 0) > 1 and self.decode_s > 0 else 0.0


Event = Started | Prefilled | Token | Piece | Finished
