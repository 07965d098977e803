"""OLMoE for a program or a notebook: `from olmoe_space import load; load().chat("…", num_experts_per_tok=16)`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from .adaptive import Choice
from .answer import final_answer
from .ask import Question, choice_from_fields, request_from_fields
from .engine.engine import Engine
from .engine.proof import prove
from .events import Event
from .lab.layer_budget import settled_request
from .model.loader import LoadedModel
from .model.loader import load as load_model
from .model_info import ModelInfo
from .settings import Settings, from_environment
from .trace import RoutingTrace, TraceRecorder, record


class Olmoe:
    """A loaded model, for as many threads as like: each request carries its own k, weighting and seed.

    info: what is loaded. engine: for the measurements of `olmoe_space.lab`, which take it as their first argument.
    """

    def __init__(self, loaded: LoadedModel, settings: Settings) -> None:
        """Raises UnknownStructure unless k is seen to act on this model."""
        self.settings = settings
        self.engine = Engine(loaded.model, loaded.tokenizer, settings.max_request_s, settings.backend, loaded.room)
        prove(loaded.model, self.engine.kernels)
        self.info: ModelInfo = replace(loaded.info, backend=self.engine.kernels.name)
        self.loaded = replace(loaded, info=self.info)

    def chat(self, message: str, history: list[dict[str, Any]] | None = None, **fields: Any) -> dict[str, Any]:
        """One reply, as `/generate` gives its last object: text, num_experts_per_tok, expert_counts [L][E],
        routing_mass, tokens_per_s and more (see answer.final_answer).

        history: earlier messages, {role, content} each. fields: num_experts_per_tok, mode ("fixed", "adaptive",
        "per-token"), k_min, k_max, rule, parameter, weighting, system_prompt, temperature, top_p, max_new_tokens, seed;
        what is left out is as on the page. Raises ValueError saying what cannot be.
        """
        question = self._question(message, history, fields)
        recorder = TraceRecorder()
        for event in self._events(question):
            recorder.add(event)
        return final_answer(recorder, question.choice)

    def stream(self, message: str, history: list[dict[str, Any]] | None = None, **fields: Any) -> Iterator[Event]:
        """The same as it is computed: Started, Prefilled+, Token*, Finished (events.py). Closing it ends the reply."""
        return self._events(self._question(message, history, fields))

    def trace(self, message: str, history: list[dict[str, Any]] | None = None, **fields: Any) -> RoutingTrace:
        """The same reply as arrays: every layer's router logits, selected experts and weights (trace.py)."""
        return record(self.stream(message, history, **fields))

    def choose_experts(self, message: str, k_min: int | None = None, k_max: int | None = None) -> Choice:
        """The k that adaptive mode would use, and why."""
        return choice_from_fields(message, k_min, k_max, info=self.info, settings=self.settings)

    def _question(self, message: str, history: Any, fields: dict[str, Any]) -> Question:
        return request_from_fields(message, history, info=self.info, settings=self.settings, **fields)

    def _events(self, question: Question) -> Iterator[Event]:
        return self.engine.stream(settled_request(self.engine, question.request))


def load(model: str | None = None, *, dtype: str | None = None, weights: str | None = None,
         backend: str | None = None) -> Olmoe:
    """OLMoE, loaded and proved to obey k. What is left out is taken from the environment (README, "Settings").

    model: hub id or folder. dtype: float32, bfloat16 or float16. weights: "int8" for 8 bits. backend: triton, numba or
    torch. Raises ModelUnavailable with the reason and the remedy.
    """
    given: dict[str, Any] = {"model": model, "dtype": dtype, "weights": weights, "backend": backend}
    settings = replace(from_environment(), **{name: value for name, value in given.items() if value is not None})
    return Olmoe(load_model(settings), settings)
