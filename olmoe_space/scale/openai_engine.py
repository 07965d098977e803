"""Any OpenAI-compatible server as the engine: vLLM, SGLang, TGI, transformers serve, or our own face.

There k is fixed when a server starts, so one model is served for each k, named NAME-kN (olmoe-k8, olmoe-k16, ...), by
one server or by several; the nearest k is taken, and said so. Such servers do not tell which experts fired while a
reply streams (vLLM tells them without their weights, and only where it does not stream: vllm-project/vllm#56745), so
their events are `Piece`s. Our own face takes any k and tells everything.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, fields, replace
from typing import Any

from ..events import Event, Finished, FinishReason, Piece, Prefilled, Started, Token
from ..model_info import ModelInfo
from ..request import GenerationRequest, RoutingPolicy
from .openai_server import NotNow, Server
from .routed_experts import prefilled, token

NAMED_BY_K = re.compile(r"(?P<name>.+)[-_]k(?P<k>[1-9]\d?)", re.IGNORECASE)
SILENCE_S = 60.0
START_S, PAUSE_S = 60.0, 1.0  # for a server that starts beside this
ENDINGS: dict[str, FinishReason] = {"length": "length", "time": "time"}  # all others: the model ended it
LEFT_OUT = "Compare, Inside a token, Experts and Benchmark need the model itself and are left out."

# OLMoE-1B-7B's own numbers (its config.json), for a server that tells none. The checkpoint has this shape only.
OLMOE = ModelInfo(name="OLMoE", num_layers=16, num_experts=64, default_k=8, hidden_size=2048, intermediate_size=1024,
                  num_heads=16, vocab_size=50304, context_length=4096, norm_topk_prob=False,
                  total_params=6_919_161_856, dtype="dtype not told", device="", backend="another server",
                  has_chat_template=True, tells_routing=False)


@dataclass(frozen=True)
class _Served:
    server: Server
    model: str


class OpenAIEngine:
    """info: the model as far as it is told. jobs: what it computes: chats. slots: as many as the page lets through;
    the servers have queues of their own. Thread-safe."""

    jobs = frozenset({"chat"})

    def __init__(self, urls: str, key: str | None, max_request_s: float, slots: int, silence_s: float = SILENCE_S,
                 start_s: float = START_S) -> None:
        """urls: addresses with /v1, comma-separated. max_request_s: after so long a reply is ended with what there is.
        start_s: for a first answer. Raises ValueError if there is none, or none of use."""
        self._max_request_s = max_request_s
        self.slots = slots
        servers = [Server(url.strip(), key, min(silence_s, max_request_s)) for url in urls.split(",")]
        self.address = ", ".join(server.url for server in servers)
        models = [(server, model) for server in servers for model in _first_models(server, start_s)]
        faces = [(server, model) for server, model in models if isinstance(model.get("olmoe"), dict)]
        self._face = _Served(faces[0][0], str(faces[0][1]["id"])) if faces else None
        self._by_k = {} if faces else _by_k(models, self.address)
        self.info = self._face_info(faces[0][1]["olmoe"]) if faces else self._told_info(models)

    def run(self, name: str, *arguments: Any) -> Iterator[Event]:
        """The events of a reply. Raises ValueError for what the server refuses or cannot do, and where it fails."""
        if name not in self.jobs:
            raise ValueError(f"The server behind this page answers chats; it cannot do {name!r}.")
        [request] = arguments
        return self._from_face(self._face, request) if self._face else self._from_others(request)

    def state(self) -> dict[str, Any]:
        """engine: the addresses. served: the model for each k; of our own face, which takes any k, its model."""
        served = {str(k): one.model for k, one in sorted(self._by_k.items())}
        return {"engine": self.address, "served": served or {"any k": self._face.model if self._face else ""}}

    def _from_others(self, request: GenerationRequest) -> Iterator[Event]:
        k, served, notices = self._nearest(request.routing)
        seed = secrets.randbelow(2**31) if request.sampling.seed is None else request.sampling.seed
        watch, usage, ended = _Watch(self._max_request_s), dict[str, Any](), ""
        with closing(served.server.chunks(_body(served.model, request, seed))) as chunks:
            yield Started(None, k, "raw", seed, request.sampling.max_new_tokens, notices)
            for chunk in chunks:
                usage = chunk.get("usage") or usage
                for choice in chunk.get("choices") or []:
                    text = (choice.get("delta") or {}).get("content")
                    if text:
                        watch.arrived()
                        yield Piece(str(text))
                    ended = choice.get("finish_reason") or ended
                if watch.over:
                    ended = "time"
                    break
        yield watch.finished(ENDINGS.get(ended, "stop"), _count(usage, "prompt_tokens"),
                             _count(usage, "completion_tokens"))

    def _from_face(self, face: _Served, request: GenerationRequest) -> Iterator[Event]:
        told = self.info.tells_routing
        body = _body(face.model, request, request.sampling.seed) | _routing_fields(request.routing) | dict.fromkeys(
            ("routed_experts", "prompt_routed_experts", "router_logits"), told)
        watch, usage, about = _Watch(self._max_request_s), dict[str, Any](), dict[str, Any]()
        started: Started | None = None
        ended = ""
        with closing(face.server.chunks(body)) as chunks:
            for chunk in chunks:
                about, usage = about | (chunk.get("olmoe") or {}), chunk.get("usage") or usage
                if started is None and about:
                    started = Started(
                        about["prompt_tokens"], about["num_experts_per_tok"], about["weighting"], about["seed"],
                        about["max_new_tokens"], tuple(about["notices"]), about["policy"],
                        about.get("answered_by", ""))
                    yield started
                for choice in chunk.get("choices") or []:
                    for event in self._face_events(choice["delta"], about["num_experts_per_tok"]):
                        if not isinstance(event, Prefilled):
                            watch.arrived()
                        yield event
                ended = about.get("finish_reason") or ended
                if watch.over:
                    ended = "time"
                    break
        yield watch.finished(ENDINGS.get(ended, "stop"), about.get("prompt_tokens"),
                             watch.arrivals if told else _count(usage, "completion_tokens"))

    def _face_events(self, delta: dict[str, Any], k: int) -> Iterator[Prefilled | Token | Piece]:
        if delta.get("prompt_routed_experts"):
            yield prefilled(delta["prompt_routed_experts"], self.info, k)
        for one in delta.get("routed_experts") or []:
            yield token(one, self.info, k)
        if not self.info.tells_routing and delta.get("content"):
            yield Piece(delta["content"])

    def _nearest(self, routing: RoutingPolicy) -> tuple[int, _Served, tuple[str, ...]]:
        if not routing.is_plain or routing.weighting != "raw":
            raise ValueError("The server behind this page knows one k for all tokens, and the model's own weights. "
                             "Choose Fixed or Adaptive, and Raw.")
        asked = int(routing.num_experts_per_tok)
        k = min(self._by_k, key=lambda served: (abs(served - asked), served))
        notices = () if k == asked else (f"k = {asked} is not served; the nearest is taken, k = {k} "
                                         f"(of {', '.join(map(str, sorted(self._by_k)))}).",)
        return k, self._by_k[k], notices

    def _told_info(self, models: list[tuple[Server, dict[str, Any]]]) -> ModelInfo:
        """What the servers tell, and OLMoE-1B-7B's own numbers for the rest; the notice says so."""
        first = next(iter(self._by_k.values()))
        named = NAMED_BY_K.fullmatch(first.model)
        contexts = [model["max_model_len"] for _, model in models if isinstance(model.get("max_model_len"), int)]
        told = (f"It serves k = {', '.join(map(str, sorted(self._by_k)))}." if named else
                f"It does not say its k (its model is not named NAME-kN), taken to be OLMoE's own, {OLMOE.default_k}.")
        return replace(
            OLMOE, name=named["name"] if named else first.model, device=first.server.host,
            default_k=min(self._by_k, key=lambda k: (abs(k - OLMOE.default_k), k)),
            context_length=min(contexts, default=OLMOE.context_length),
            notice=f"Replies come from {self.address}. {told} It does not tell which experts fire, nor its model's "
                   f"numbers: those shown are OLMoE-1B-7B's. {LEFT_OUT}")

    def _face_info(self, told: dict[str, Any]) -> ModelInfo:
        names = {field.name for field in fields(ModelInfo)}
        try:
            info = ModelInfo(**{name: value for name, value in told.items() if name in names})
        except TypeError as error:
            raise ValueError(f"OLMOE_ENGINE={self.address} is of another version of this app ({error}).") from None
        return replace(info, notice=f"Replies come from {self.address}. {LEFT_OUT}")


class _Watch:
    """The times of one reply, as they are seen from here."""

    def __init__(self, max_s: float) -> None:
        self._began = time.perf_counter()
        self._max_s = max_s
        self._first = self._last = 0.0
        self.arrivals = 0

    def arrived(self) -> None:
        self.arrivals += 1
        self._last = time.perf_counter()
        self._first = self._first or self._last

    @property
    def over(self) -> bool:
        return time.perf_counter() - self._began > self._max_s

    def finished(self, reason: FinishReason, prompt_tokens: int | None, new_tokens: int | None) -> Finished:
        first = self._first or time.perf_counter()
        return Finished(reason, prompt_tokens, new_tokens, first - self._began, max(0.0, self._last - first))


def _by_k(models: list[tuple[Server, dict[str, Any]]], address: str) -> dict[int, _Served]:
    """The model for each k. One alone whose name says no k is taken for the model's own."""
    found: dict[int, _Served] = {}
    for server, model in models:
        named = NAMED_BY_K.fullmatch(str(model["id"]))
        if named and int(named["k"]) <= OLMOE.num_experts:
            found.setdefault(int(named["k"]), _Served(server, str(model["id"])))
    if not found and len(models) == 1:
        [(server, model)] = models
        found[OLMOE.default_k] = _Served(server, str(model["id"]))
    if not found:
        names = ", ".join(str(model["id"]) for _, model in models) or "nothing"
        raise ValueError(f"OLMOE_ENGINE={address} serves {names}: no model is named for its k, such as olmoe-k8.")
    return found


def _first_models(server: Server, limit_s: float) -> list[dict[str, Any]]:
    until = time.monotonic() + limit_s
    while True:
        try:
            return server.models()
        except ValueError as error:
            if time.monotonic() > until or not isinstance(error, NotNow):
                raise ValueError(f"OLMOE_ENGINE={server.url} cannot be used. {error}") from None
            time.sleep(PAUSE_S)


def _body(model: str, request: GenerationRequest, seed: int | None) -> dict[str, Any]:
    sampling = request.sampling
    return {"model": model, "messages": [{"role": m.role, "content": m.content} for m in request.messages],
            "temperature": sampling.temperature, "top_p": sampling.top_p, "max_tokens": sampling.max_new_tokens,
            **({"seed": seed} if seed is not None else {})}


def _routing_fields(routing: RoutingPolicy) -> dict[str, Any]:
    if routing.expert_scales:
        raise ValueError("The server behind this page cannot scale single experts.")
    how = ({"num_experts_per_tok": routing.num_experts_per_tok} if routing.rule is None else
           {"rule": routing.rule.name, "parameter": routing.rule.parameter, "k_min": routing.k_min,
            "k_max": routing.k_max})
    return how | {"weighting": routing.weighting}


def _count(usage: dict[str, Any], name: str) -> int | None:
    value = usage.get(name)
    return value if isinstance(value, int) else None
