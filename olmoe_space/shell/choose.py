"""`choose "…"`: the k that adaptive routing gives a message, with its reasons."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..ask import choice_from_fields
from ..model.loader import load
from ..settings import Settings


def add_parser(commands: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        "choose", help="the k that adaptive routing gives a message, with its reasons")
    parser.add_argument("message")
    parser.add_argument("--k-min", default=None)
    parser.add_argument("--k-max", default=None)
    return parser


def run(args: argparse.Namespace, settings: Settings) -> int:
    info = load(settings).info
    print(json.dumps(choice_from_fields(args.message, args.k_min, args.k_max, info=info, settings=settings).as_dict()))
    return 0
