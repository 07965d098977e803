"""/healthz: what runs here and how busy it is, for a monitor and for a person."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import gradio as gr
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..model_info import ModelInfo

PATH = "/healthz"


def status_route(info: ModelInfo, page: gr.Blocks, state: Callable[[], dict[str, Any]]) -> Route:
    """state: what changes, asked each time. The route goes to `page.launch_options`."""
    model = {"model": info.name, "parameters": info.total_params, "dtype": info.dtype, "device": info.device,
             "backend": info.backend}

    async def healthz(_: Request) -> Response:
        waiting = len(page._queue)  # has no public name; /gradio_api/queue/status tells the same
        told = {"status": "ok", **model, "waiting": waiting, **await asyncio.to_thread(state)}  # it may ask elsewhere
        return Response(json.dumps(told, indent=2) + "\n", media_type="application/json",
                        headers={"Cache-Control": "no-store"})

    return Route(PATH, healthz)
