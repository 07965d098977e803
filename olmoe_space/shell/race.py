"""`race "…"`: one text under every routing policy at several parameters, mean k against nats a token."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from ..lab.benchmark import hardware
from ..lab.race import race_text
from ..race import Run, as_rows, as_table, verdict
from ..request import visible_message
from ..settings import Settings
from .loading import load_engine
from .stopping import until_stopped


def add_parser(commands: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        "race", help="one text under every routing policy, mean k against nats")
    parser.add_argument("text", help="read as it stands, without a chat's role tags")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    return parser


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Stopped, it prints what it has."""
    loaded, engine = load_engine(settings)
    own_k, runs = loaded.info.default_k, list[Run]()
    with until_stopped() as ending:
        for found in race_text(engine, visible_message(args.text, settings.max_message_chars)):
            runs.append(found)
            print(f"\r{len(runs)} runs, the last {found.name}" + " " * 12, end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    if not runs:
        return ending.exit_code
    if args.json:
        print(json.dumps({"model": loaded.info.name, "dtype": loaded.info.dtype, "hardware": hardware(loaded.info),
                          "own_k": own_k, "verdict": verdict(runs, own_k), "runs": as_rows(runs, own_k)}))
    else:
        print(as_table(runs, own_k))
        print(verdict(runs, own_k))
    return ending.exit_code
