"""What answers where gradio itself would show a visitor the inside of the program.

Functions of ours refuse in sentences. Gradio does not where a request fits no function (another number or kind of
values, a name that is not there): it hands out validation reports, names of classes and the paths in messages of
OSError, and a status of 500. Knows nothing of what the functions do.
"""

from __future__ import annotations

import errno
import logging
from typing import Any

import gradio as gr
from fastapi.exceptions import RequestValidationError
from gradio.mcp import GradioMCPServer
from gradio.route_utils import FnIndexInferError
from httpx import InvalidURL
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .sessions import SessionConfig
from .tools import Tools

log = logging.getLogger(__name__)

MISFIT = ("What was sent does not fit this function: another number or kind of values is expected. Load the page anew; "
          "for programs, /gradio_api/info tells what is expected.")
FAILED = "This failed. Try again, and load the page anew if it stays so; the reason stands in the server's log."
NOTHING_THERE = "There is no such function, or not with such arguments. /gradio_api/info tells which there are."


class Page(gr.Blocks):
    """Blocks whose functions answer or fail with a sentence, whoever calls them with whatever."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.default_config = SessionConfig(self)

    @property  # type: ignore[override]  # gradio's is an attribute; it sets it, of its own kind, as the server starts
    def mcp_server_obj(self) -> GradioMCPServer | None:
        """The endpoints as tools, of our kind."""
        return self._tools

    @mcp_server_obj.setter
    def mcp_server_obj(self, server: GradioMCPServer | None) -> None:
        if server is not None:
            server.__class__ = Tools
        self._tools = server

    async def preprocess_data(self, block_fn: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().preprocess_data(block_fn, *args, **kwargs)
        except Exception as error:
            if isinstance(error, gr.Error):  # of a component, in words; they print a traceback unless told not to
                raise gr.Error(str(error.message), print_exception=False) from None
            log.info("%s was called with what does not fit: %s", block_fn.name, type(error).__name__)
            raise gr.Error(MISFIT, print_exception=False) from None

    async def process_api(self, block_fn: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().process_api(block_fn, *args, **kwargs)
        except gr.Error:
            raise
        except Exception as error:
            log.error("A function of the page failed: %s", block_fn, exc_info=error)
            raise gr.Error(FAILED, print_exception=False) from None


class PlainStatus:
    """ASGI middleware: what a caller did wrong has a status of 4xx, where gradio's routes have 500.

    They let KeyError, TypeError, FnIndexInferError, InvalidURL or OSError out for names that are not or cannot be,
    and give 500 to every gr.Error of a function that is called without the queue: a JSON object, unlike a crash.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        began = False

        async def sent(message: Message) -> None:
            nonlocal began
            if message["type"] == "http.response.start":
                began = True
                if message["status"] == 500 and (b"content-type", b"application/json") in message["headers"]:
                    message = {**message, "status": 400}
            await send(message)

        try:
            await self.app(scope, receive, sent)
        except (KeyError, TypeError, FnIndexInferError, InvalidURL, OSError) as error:
            if began or (isinstance(error, OSError) and error.errno != errno.ENAMETOOLONG):
                raise
            log.warning("%s was asked for what is not there: %s", scope["path"], type(error).__name__)
            await JSONResponse({"error": NOTHING_THERE, "detail": NOTHING_THERE}, 404)(scope, receive, send)


async def unreadable(_: Request, error: Exception) -> JSONResponse:
    """What is wrong with a request's form. FastAPI's own answer quotes the request, and breaks where that holds NaN or
    a lone surrogate."""
    assert isinstance(error, RequestValidationError)
    wrong = "; ".join(f"{'.'.join(map(str, e['loc'][:2]))}: {e['msg']}" for e in error.errors()[:3])
    return JSONResponse({"error": wrong, "detail": wrong}, 422)


def app_options() -> dict[str, Any]:
    """Keyword arguments of the FastAPI app that gradio makes."""
    return {"middleware": [Middleware(PlainStatus)], "exception_handlers": {RequestValidationError: unreadable}}
