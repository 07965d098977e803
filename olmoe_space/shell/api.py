"""`api`: serves the OpenAI-compatible face over this machine's model, without the page."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import uvicorn

from ..lab.jobs import computed
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
    loaded, engine = load_engine(settings)
    settings = replace(settings, max_concurrent_chats=min(settings.max_concurrent_chats, loaded.room.slots))
    traffic = Traffic()

    def job(name: str, *arguments: Any) -> Iterator[Any]:
        return traffic.watched(name, computed(engine, name, *arguments))

    face = build_face(loaded.info, job, settings)
    uvicorn.run(face, host=args.host or settings.host, port=settings.port if args.port is None else args.port,
                log_config=None)
    return 0
