"""`dataflow "…"`: one token's way through the model, every step in numbers."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..lab.dataflow import as_json, as_text, walk
from ..request import RoutingPolicy
from ..settings import Settings
from .loading import load_engine


def add_parser(commands: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        "dataflow", help="one token's way through the model, every step in numbers")
    parser.add_argument("text", help="read as it stands, without a chat's role tags")
    parser.add_argument("--layer", type=int, default=0, help="the layer told in full; -1 is the last")
    parser.add_argument("--token", type=int, default=-1, help="the token walked; -1 is the last")
    parser.add_argument("--k", default=None, help="active experts; default: the model's own")
    parser.add_argument("--weighting", default="raw", help="raw, renormalised or mass_preserving")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def run(args: argparse.Namespace, settings: Settings) -> int:
    loaded, engine = load_engine(settings)
    routing = RoutingPolicy(loaded.info.default_k if args.k is None else args.k, args.weighting)
    told = walk(engine, args.text, args.token, routing)
    print(json.dumps(as_json(told, args.layer)) if args.json else as_text(told, args.layer))
    return 0
