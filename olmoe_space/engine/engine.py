"""Requests -> events: prefill in chunks, then one token a step, each row with its own k, sampling and seed.

The engine keeps nothing of a request after it ends. Closing the iterator stops the work at once.
Steps of different requests take turns (`FairLock`), so chats share the model token by token.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from tokenizers.decoders import DecodeStream
from torch import Tensor

from ..conversation import Prompt, encode
from ..events import Event, Finished, FinishReason, Prefilled, Routing, Started, Token
from ..model.structure import OlmoeWeights, weights_of
from ..request import GenerationRequest
from .cache import KeyValueCache
from .fair_lock import FairLock
from .forward import StepOutput, forward
from .routing import RowRouting, row_routing
from .sampling import sample

PREFILL_CHUNK = 256  # tokens; between chunks Stop is heard and other chats take their turn


@dataclass
class _Row:
    """One request on its way."""

    prompt: Prompt
    request: GenerationRequest
    seed: int
    generator: torch.Generator
    text: Any  # DecodeStream: bytes of tokens -> whole characters
    logits: Tensor | None = None  # after the last token fed, float32 [V]
    new_tokens: int = 0
    first_token_at: float = 0.0
    last_token_at: float = 0.0
    finish_reason: FinishReason | None = field(default=None)


class Engine:
    """Generates with one loaded model. Thread-safe; any number of streams may be open."""

    def __init__(self, model: Any, tokenizer: Any, max_request_s: float = float("inf")) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.max_request_s = max_request_s
        self.context_length: int = model.config.max_position_embeddings
        self._stop_ids = _stop_ids(model)
        self._lock = FairLock()
        weights_of(model)  # refuses what it does not know, before the first visitor

    @property
    def turn(self) -> FairLock:
        """Held for each forward, so that chats and measurements take their turns."""
        return self._lock

    @property
    def stop_ids(self) -> frozenset[int]:
        """Token ids that end a reply."""
        return self._stop_ids

    def stream(self, request: GenerationRequest) -> Iterator[Event]:
        """One request -> Started, Prefilled+, Token*, Finished. Raises ValueError for what cannot be run."""
        for _, event in self.stream_together([request]):
            yield event

    def stream_together(self, requests: Sequence[GenerationRequest]) -> Iterator[tuple[int, Event]]:
        """Several requests as rows of one batch -> (row, event). Each row gives what it gives alone."""
        began = time.perf_counter()
        weights = weights_of(self.model)
        rows = [self._start(request, weights) for request in requests]
        _routing_of(rows, weights)  # refuse a bad k now
        for i, row in enumerate(rows):
            yield i, Started(len(row.prompt.token_ids), int(row.request.routing.num_experts_per_tok),
                             row.request.routing.weighting, row.seed, row.prompt.max_new_tokens, row.prompt.notices,
                             row.request.routing.in_words())
        cache = KeyValueCache(weights, len(rows),
                              max(len(r.prompt.token_ids) + r.prompt.max_new_tokens for r in rows))
        for i, row in enumerate(rows):
            for chunk in self._prefill(weights, cache, i, row):
                yield i, chunk
        while active := [i for i, row in enumerate(rows) if row.finish_reason is None]:
            with self._lock:
                decoded = self._decode_step(weights, cache, rows, active)
            yield from decoded
            for i in active:
                if rows[i].finish_reason is None and time.perf_counter() - began > self.max_request_s:
                    rows[i].finish_reason = "time"
                if rows[i].finish_reason is not None:
                    yield i, _finished(rows[i], began)

    def _start(self, request: GenerationRequest, weights: OlmoeWeights) -> _Row:
        sampling = request.sampling
        seed = secrets.randbelow(2**32) if sampling.seed is None else sampling.seed
        prompt = encode(self.tokenizer, request.messages, self.context_length, sampling.max_new_tokens)
        return _Row(prompt, request, seed, torch.Generator(weights.device).manual_seed(seed),
                    DecodeStream(skip_special_tokens=True))

    def _prefill(self, weights: OlmoeWeights, cache: KeyValueCache, index: int, row: _Row) -> Iterator[Prefilled]:
        routing = _routing_of([row], weights)
        pieces = token_texts(self.tokenizer, row.prompt.token_ids)
        for start in range(0, len(row.prompt.token_ids), PREFILL_CHUNK):
            ids = row.prompt.token_ids[start:start + PREFILL_CHUNK]
            with self._lock:
                step = forward(weights, torch.tensor([ids], device=weights.device), cache, [index], routing)
            row.logits = step.logits[0, -1]
            yield Prefilled(ids, pieces[start:start + PREFILL_CHUNK], _routing(step, 0, routing.k_max))

    def _decode_step(self, weights: OlmoeWeights, cache: KeyValueCache, rows: list[_Row],
                     active: list[int]) -> list[tuple[int, Event]]:
        """Draw each active row's next token and feed it: a token is told with the experts that processed it."""
        tokens: dict[int, int] = {}
        for i in active:
            row, sampling = rows[i], rows[i].request.sampling
            assert row.logits is not None  # every prompt has at least one token
            token = sample(row.logits, sampling.temperature, sampling.top_p, row.generator)
            if token in self._stop_ids:
                row.finish_reason = "stop"
            else:
                tokens[i] = token
        if not tokens:
            return []
        fed = list(tokens)
        routing = _routing_of([rows[i] for i in fed], weights)
        ids = torch.tensor([[token] for token in tokens.values()], device=weights.device)
        step = forward(weights, ids, cache, fed, routing)
        return [(i, self._token(rows[i], tokens[i], step, n)) for n, i in enumerate(fed)]

    def _token(self, row: _Row, token: int, step: StepOutput, n: int) -> Token:
        row.logits = step.logits[n, -1]
        row.new_tokens += 1
        row.last_token_at = time.perf_counter()
        row.first_token_at = row.first_token_at or row.last_token_at
        if row.new_tokens >= row.prompt.max_new_tokens:
            row.finish_reason = "length"
        text = row.text.step(self.tokenizer.backend_tokenizer, token) or ""
        return Token(token, text, _routing(step, n, int(row.request.routing.num_experts_per_tok)))


def _routing_of(rows: Sequence[_Row], weights: OlmoeWeights) -> RowRouting:
    return row_routing([r.request.routing for r in rows], weights.num_experts, weights.device, len(weights.layers),
                       [r.seed for r in rows])


def token_texts(tokenizer: Any, token_ids: Sequence[int]) -> tuple[str, ...]:
    """The text of each token, special ones included; "" until a character's bytes are complete."""
    stream = DecodeStream(skip_special_tokens=False)
    return tuple(stream.step(tokenizer.backend_tokenizer, token) or "" for token in token_ids)


def _routing(step: StepOutput, row: int, k: int) -> Routing:
    """What one row's tokens did, cut to its own k and brought to the CPU."""
    array = lambda t: np.ascontiguousarray(t.cpu().numpy())  # noqa: E731
    return Routing(array(step.router_logits[row]), array(step.selected_experts[row, ..., :k]),
                   array(step.routing_weights[row, ..., :k]), array(step.active_experts[row]))


def _finished(row: _Row, began: float) -> Finished:
    first = row.first_token_at or time.perf_counter()
    return Finished(row.finish_reason or "stop", len(row.prompt.token_ids), row.new_tokens,
                    first - began, max(0.0, row.last_token_at - first))


def _stop_ids(model: Any) -> frozenset[int]:
    """Ids that end a reply. Ids, never strings: OLMoE's 0125 tokenizers swap the names of 0 and 50279."""
    found: set[int] = set()
    for config in (model.config, getattr(model, "generation_config", None)):
        eos = getattr(config, "eos_token_id", None)
        found.update([eos] if isinstance(eos, int) else eos or [])
    return frozenset(found)


