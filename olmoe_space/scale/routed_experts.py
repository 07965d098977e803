"""The experts of tokens as JSON, and back.

One object a token, {"id", "text", "selected_experts", "routing_weights"}: the last two are lists [L][k], the experts
that worked on the token in each layer, most probable first, and their weights, rounded to 6 decimals. On request also
"router_logits", base64 of little-endian float32 [L][E]; with them it is all that an event tells.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..events import Prefilled, Routing, Token
from ..model_info import ModelInfo


def as_json(event: Prefilled | Token, router_logits: bool) -> list[dict[str, Any]]:
    ids, texts = ((event.token_ids, event.texts) if isinstance(event, Prefilled)
                  else ((event.token_id,), (event.text,)))
    return [_token(token_id, text, event.routing, t, router_logits)
            for t, (token_id, text) in enumerate(zip(ids, texts, strict=True))]


def _token(token_id: int, text: str, routing: Routing, t: int, router_logits: bool) -> dict[str, Any]:
    counts = routing.active_experts[t].tolist()  # [L]
    firsts = lambda rows: [row[:count] for row, count in zip(rows, counts, strict=True)]  # noqa: E731
    token = {"id": token_id, "text": text, "selected_experts": firsts(routing.selected_experts[t].tolist()),
             "routing_weights": firsts(routing.routing_weights[t].astype(np.float64).round(6).tolist())}
    if router_logits:
        token["router_logits"] = base64.b64encode(routing.router_logits[t].astype("<f4").tobytes()).decode("ascii")
    return token


def prefilled(tokens: Sequence[dict[str, Any]], info: ModelInfo, k: int) -> Prefilled:
    """The inverse of `as_json`. k: as many places as an event has for experts, some of which may not have worked.
    Raises ValueError for what is not of this form or not of this model."""
    try:
        return Prefilled(tuple(int(token["id"]) for token in tokens), tuple(str(token["text"]) for token in tokens),
                         _routing(tokens, info, k))
    except (KeyError, TypeError, IndexError, OverflowError, binascii.Error, ValueError) as error:
        raise ValueError(f"The server's routed experts cannot be read ({type(error).__name__}: {error}).") from error


def token(told: dict[str, Any], info: ModelInfo, k: int) -> Token:
    one = prefilled([told], info, k)
    return Token(one.token_ids[0], one.texts[0], one.routing)


def _routing(tokens: Sequence[dict[str, Any]], info: ModelInfo, k: int) -> Routing:
    shape = (len(tokens), info.num_layers, k)
    logits = np.stack([np.frombuffer(base64.b64decode(token["router_logits"]), "<f4").reshape(
        info.num_layers, info.num_experts) for token in tokens])
    selected, weights = np.zeros(shape, np.uint8), np.zeros(shape, np.float32)
    active = np.zeros(shape[:2], np.uint8)
    for t, told in enumerate(tokens):
        for layer, experts, factors in zip(range(info.num_layers), told["selected_experts"], told["routing_weights"],
                                           strict=True):
            n = active[t, layer] = len(experts)
            selected[t, layer, :n], weights[t, layer, :n] = experts, factors
    if selected.max(initial=0) >= info.num_experts:
        raise ValueError(f"an expert beyond the model's {info.num_experts}")
    return Routing(logits, selected, weights, active)
