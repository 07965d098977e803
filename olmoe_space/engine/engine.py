"""Requests -> events: prefill in chunks, then one token a step, each row with its own k, sampling and seed.

The engine keeps nothing of a request after it ends. Closing the iterator stops the work at once.
Chunks of prompts and measurements take turns (`FairLock`); tokens of different chats go through the model together
(`batching`). How the model is computed is the kernels' business (`kernels`).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from tokenizers.decoders import DecodeStream

from ..conversation import Prompt, encode
from ..events import Event, Finished, FinishReason, Prefilled, Started, Token
from ..model.memory import CHUNK, Room
from ..request import GenerationRequest
from .backend import choose_kernels
from .batching import Batcher
from .fair_lock import FairLock
from .kernels import Kernels, LaneRequest, Step
from .pytorch import PyTorchKernels


@dataclass
class _Row:
    """One request on its way."""

    prompt: Prompt
    request: GenerationRequest
    seed: int
    text: Any  # DecodeStream: bytes of tokens -> whole characters
    lane: Any = None  # its place in `kernels`
    kernels: Kernels | None = None
    new_tokens: int = 0
    first_token_at: float = 0.0
    last_token_at: float = 0.0
    finish_reason: FinishReason | None = field(default=None)


class Engine:
    """Generates with one loaded model. Thread-safe; any number of streams may be open."""

    def __init__(self, model: Any, tokenizer: Any, max_request_s: float = float("inf"),
                 backend: str | None = None, room: Room | None = None) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.max_request_s = max_request_s
        self.context_length: int = room.context if room else model.config.max_position_embeddings
        self.prefill_chunk = room.chunk if room else CHUNK
        self._stop_ids = _stop_ids(model)
        self._lock = FairLock()
        self.kernels = choose_kernels(model, backend, room)
        every_policy = PyTorchKernels(model)  # computes what faster kernels do not
        self._batchers = {kernels: Batcher(kernels, self._lock) for kernels in (self.kernels, every_policy)}

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
        rows = [self._start(request) for request in requests]
        with ExitStack() as room:
            self._seat(rows, room)
            for i, row in enumerate(rows):
                yield i, Started(len(row.prompt.token_ids), int(row.request.routing.num_experts_per_tok),
                                 row.request.routing.weighting, row.seed, row.prompt.max_new_tokens,
                                 row.prompt.notices, row.request.routing.in_words())
            for i, row in enumerate(rows):
                for chunk in self._prefill(row):
                    yield i, chunk
            while active := [i for i, row in enumerate(rows) if row.finish_reason is None]:
                yield from self._step(rows, active)
                for i in active:
                    if rows[i].finish_reason is None and time.perf_counter() - began > self.max_request_s:
                        rows[i].finish_reason = "time"
                    if rows[i].finish_reason is not None:
                        yield i, _finished(rows[i], began)

    def _start(self, request: GenerationRequest) -> _Row:
        sampling = request.sampling
        seed = secrets.randbelow(2**32) if sampling.seed is None else sampling.seed
        prompt = encode(self.tokenizer, request.messages, self.context_length, sampling.max_new_tokens)
        return _Row(prompt, request, seed, DecodeStream(skip_special_tokens=True))

    def _seat(self, rows: Sequence[_Row], room: ExitStack) -> None:
        """A lane for each row, of the first kernels that compute its policy."""
        for kernels in self._batchers:
            seated = [row for row in rows if row.lane is None and kernels.computes(row.request.routing)]
            if seated:
                lanes = room.enter_context(kernels.lanes([
                    LaneRequest(len(row.prompt.token_ids) + row.prompt.max_new_tokens, row.request.routing,
                                row.request.sampling, row.seed) for row in seated]))
                for row, lane in zip(seated, lanes, strict=True):
                    row.lane, row.kernels = lane, kernels

    def _prefill(self, row: _Row) -> Iterator[Prefilled]:
        pieces = token_texts(self.tokenizer, row.prompt.token_ids)
        for start in range(0, len(row.prompt.token_ids), self.prefill_chunk):
            ids = row.prompt.token_ids[start:start + self.prefill_chunk]
            assert row.kernels is not None  # it is seated
            with self._lock:
                routing = row.kernels.prefill(row.lane, ids)
            yield Prefilled(ids, pieces[start:start + self.prefill_chunk], routing)

    def _step(self, rows: Sequence[_Row], active: Sequence[int]) -> Iterator[tuple[int, Token]]:
        """The next token of each active row: a token is told with the experts that processed it."""
        for kernels, batcher in self._batchers.items():
            together = [i for i in active if rows[i].kernels is kernels]
            if together:
                steps = batcher.step([rows[i].lane for i in together], self._stop_ids)
                for i, step in zip(together, steps, strict=True):
                    if isinstance(step, Exception):
                        raise step
                    if step.routing is None:
                        rows[i].finish_reason = "stop"
                    else:
                        yield i, self._token(rows[i], step)

    def _token(self, row: _Row, step: Step) -> Token:
        row.new_tokens += 1
        row.last_token_at = time.perf_counter()
        row.first_token_at = row.first_token_at or row.last_token_at
        if row.new_tokens >= row.prompt.max_new_tokens:
            row.finish_reason = "length"
        text = row.text.step(self.tokenizer.backend_tokenizer, step.token_id) or ""
        assert step.routing is not None  # it was fed
        return Token(step.token_id, text, step.routing)


def token_texts(tokenizer: Any, token_ids: Sequence[int]) -> tuple[str, ...]:
    """The text of each token, special ones included; "" until a character's bytes are complete."""
    stream = DecodeStream(skip_special_tokens=False)
    return tuple(stream.step(tokenizer.backend_tokenizer, token) or "" for token in token_ids)


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


