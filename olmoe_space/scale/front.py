"""Beside the replicas: what they are and do, for front ends, and the OpenAI-compatible face over them.

Holds no model, so that it starts fast and needs no core of its own.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..settings import Settings
from .limits import Callers
from .openai_face import build_face
from .ray_engine import STATE_PATH, RayEngine

STATE_LIMIT_S = 1.0


@serve.ingress()
class Front:
    """What the replicas are and do, as JSON, and the OpenAI-compatible face over them."""

    def __init__(self, settings: Settings, engine: str, address: str, most_slots: int, told: dict[str, Any]) -> None:
        """engine: the replicas' application. address: where they are asked, as by any front end, so that a reply moves
        to another as for any. told: their `summary` at the start."""
        self._settings, self._most_slots = settings, most_slots
        self._replicas = serve.get_deployment_handle(engine, engine)
        self._callers = Callers(settings.api_keys)
        self._told, self._told_at = told, time.monotonic()
        key = settings.api_keys[0].token if settings.api_keys else None
        self._engine = RayEngine(address, settings.max_request_s, key, told)

    def __serve_build_asgi_app__(self) -> FastAPI:
        face = build_face(self._engine.info, self._engine.run,
                          replace(self._settings, max_concurrent_chats=self._most_slots))
        face.add_route(STATE_PATH, self._state)
        return face

    async def _state(self, request: Request) -> Response:
        self._callers.who(request.headers.get("Authorization"), request.client.host if request.client else None)
        try:
            self._told = summary(await asyncio.wait_for(self._states(), STATE_LIMIT_S), self._most_slots)
            self._told_at = time.monotonic()
        except (TimeoutError, RayError, RayServeException):
            pass  # one is silent: until Ray has replaced it, what was told last
        return JSONResponse(self._told | {"told_s_ago": round(time.monotonic() - self._told_at, 1)})

    async def _states(self) -> list[dict[str, Any]]:
        answers = await self._replicas.broadcast("state").results_async(return_exceptions=True)
        return [answer for answer in answers if isinstance(answer, dict)]


def summary(states: list[dict[str, Any]], most_slots: int) -> dict[str, Any]:
    """What all replicas have in common, told once, and the rest of each, in order."""
    common = {name: states[0][name] for name in ("model", "jobs")}
    each = [{name: value for name, value in state.items() if name not in common} for state in states]
    return common | {"most_slots": most_slots, "replicas": sorted(each, key=lambda one: one["replica"])}
