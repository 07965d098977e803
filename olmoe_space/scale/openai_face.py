"""/v1/models and /v1/chat/completions in OpenAI's words, over any engine.

Beside OpenAI's fields a request may have `num_experts_per_tok` (a number, "adaptive", or a rule with its parameter such
as "top-p:0.4"), `weighting`, `k_min`, `k_max`, `rule`, `parameter`, and `routed_experts`, `prompt_routed_experts` and
`router_logits` (see `openai_reply`). What is left out is as on the page: temperature 0.6, top_p 0.95, 256 tokens, the
model's own k. Other paths of OpenAI's are not served. Who may ask is `limits`'.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from ..events import Event
from ..model_info import ModelInfo
from ..settings import Settings
from .computing import Computations, Full, Gone, while_connected
from .errors import Refused
from .limits import Caller, Callers
from .openai_reply import Reply
from .openai_request import asked

log = logging.getLogger(__name__)

RETRY_AFTER_S = 5  # where every place is taken; replies take seconds, and asking again costs next to nothing
BYTES_A_CHARACTER = 12  # at most, in JSON: a pair of \u escapes
Chunks = AsyncGenerator[list[dict[str, Any]], None]


def build_face(info: ModelInfo, run: Callable[..., Iterator[Any]], settings: Settings) -> FastAPI:
    """The face as an ASGI app. `run(name, *arguments)` yields a job's results (lab.jobs); only "chat" is asked for.
    All state is the app's own: it may be built in any process."""
    face = FastAPI(title="OLMoE Space", openapi_url=None)
    callers = Callers(settings.api_keys)
    computations = Computations(settings.max_concurrent_chats, settings.max_queue)
    began = int(time.time())
    model = {"id": info.name, "object": "model", "created": began, "owned_by": "olmoe-space",
             "max_model_len": info.context_length, "olmoe": asdict(info)}
    most_bytes = BYTES_A_CHARACTER * (settings.max_history_chars + 2 * settings.max_message_chars)

    def who(request: Request) -> Caller:
        return callers.who(request.headers.get("Authorization"), request.client.host if request.client else None)

    @face.get("/v1/models")
    async def models(request: Request) -> Response:
        who(request)
        return _json({"object": "list", "data": [model]})

    @face.get("/v1/models/{name:path}")
    async def one_model(name: str, request: Request) -> Response:
        who(request)
        if name != info.name:
            raise Refused(f"There is no such model here. This server has {info.name}.", 404, param="model",
                          code="model_not_found")
        return _json(model)

    @face.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        caller = who(request)
        question = asked(await _body(request, most_bytes), info, settings)
        caller.admit()
        reply = Reply(question, info.name)
        events = _events(reply, computations.results(lambda: run("chat", question.question.request)), caller)
        if question.stream:
            first = await while_connected(request.receive, anext(events))  # a refusal has a status of its own
            return _Streamed(_chunks(first, events, reply))
        await while_connected(request.receive, _all(events))
        return _json(reply.whole())

    @face.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        return _json(error.body, error.status, error.headers)

    @face.exception_handler(HTTPException)
    async def not_served(request: Request, error: HTTPException) -> Response:
        told = Refused(f"{request.method} {request.url.path} is not served here; GET /v1/models and POST "
                       "/v1/chat/completions are.", error.status_code, code="unknown_url")
        return _json(told.body, told.status, dict(error.headers or {}))

    @face.exception_handler(Gone)
    async def gone(_: Request, __: Gone) -> Response:
        return Response(status_code=499)  # nobody reads it

    return face


async def _events(reply: Reply, results: AsyncGenerator[Event, None], caller: Caller) -> Chunks:
    """The chunks of each event. Whatever went wrong is a Refused; however it ends, the caller's tokens are counted."""
    try:
        async with aclosing(results) as events:
            async for event in events:
                yield reply.add(event)
                if reply.ended:
                    break
    except Full:
        raise Refused("Too many requests are waiting. Try again in a moment.", 429, type="requests",
                      code="rate_limit_exceeded", retry_after_s=RETRY_AFTER_S) from None
    except ValueError as error:
        raise Refused(str(error)) from None
    except Exception as error:
        log.exception("A reply failed.")
        raise Refused(f"The model could not answer ({type(error).__name__}). Try again.", 500,
                      type="server_error") from error
    finally:
        caller.used(reply.tokens)


async def _all(events: AsyncGenerator[Any, None]) -> None:
    async with aclosing(events):
        async for _ in events:
            pass


async def _chunks(first: list[dict[str, Any]], events: Chunks, reply: Reply) -> AsyncGenerator[str, None]:
    """As server-sent events. An error amid the reply is an event too."""
    try:
        async with aclosing(events):
            for chunk in first:
                yield _sent(chunk)
            async for chunks in events:
                for chunk in chunks:
                    yield _sent(chunk)
        for chunk in reply.last():
            yield _sent(chunk)
        yield "data: [DONE]\n\n"
    except Refused as error:
        yield _sent(error.body)


class _Streamed(StreamingResponse):
    """Server-sent events, whose making ends as soon as the client leaves, even while none is sent."""

    def __init__(self, chunks: AsyncGenerator[str, None]) -> None:
        self._chunks = chunks
        super().__init__(chunks, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
                         media_type="text/event-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def stream() -> None:
            async with aclosing(self._chunks):
                await self.stream_response(send)

        try:
            await while_connected(receive, stream())
        except Gone:
            pass


async def _body(request: Request, most_bytes: int) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > most_bytes:
            raise Refused(f"The body has more than {most_bytes:,} bytes. Send the latest messages only.", 413)
    return bytes(body)


def _sent(chunk: dict[str, Any]) -> str:
    return f"data: {json.dumps(chunk, separators=(',', ':'))}\n\n"


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    # Not JSONResponse: it cannot send lone surrogates, which a client may have sent.
    return Response(json.dumps(value), status, headers, "application/json")
