"""`api`: serves the OpenAI-compatible face without the page, over this machine's model or OLMOE_ENGINE."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import uvicorn

from ..lab.jobs import computed
from ..model_info import ModelInfo
from ..scale.engines import remote_engine
from ..scale.openai_face import build_face
from ..settings import Settings
from ..traffic import Traffic
from .loading import load_engine


def add_parser(commands: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        "api", help="serve /v1/chat/completions and /v1/models, for any OpenAI client",
        description="OLMOE_API_KEYS names who may ask; without it only this machine may.")
    parser.add_argument("--host", default=None, help="address to serve at; default: GRADIO_SERVER_NAME, 127.0.0.1")
    parser.add_argument("--port", type=int, default=None, help="default: PORT, 7860")
    return parser


def run(args: argparse.Namespace, settings: Settings) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    info, at_once, compute = _engine(settings)
    settings = replace(settings, max_concurrent_chats=min(settings.max_concurrent_chats, at_once))
    traffic = Traffic()

    def job(name: str, *arguments: Any) -> Iterator[Any]:
        return traffic.watched(name, compute(name, *arguments))

    uvicorn.run(build_face(info, job, settings), host=args.host or settings.host,
                port=settings.port if args.port is None else args.port, log_config=None)
    return 0


def _engine(settings: Settings) -> tuple[ModelInfo, int, Callable[..., Iterator[Any]]]:
    """The model, how many replies it computes at once, and what runs a job on it."""
    if settings.engine:
        remote = remote_engine(settings)
        return remote.info, remote.slots, remote.run
    loaded, engine = load_engine(settings)
    return loaded.info, loaded.room.slots, partial(computed, engine)
