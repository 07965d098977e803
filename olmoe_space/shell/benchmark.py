"""`benchmark`: speed against stock transformers, in one run."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..lab.benchmark import benchmark
from ..model.loader import load
from ..settings import Settings
from .loading import ks_of


def add_parser(commands: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        "benchmark", help="speed against stock transformers, in one run")
    parser.add_argument("--k", default="8,64", help="active experts to measure, comma-separated")
    parser.add_argument("--new-tokens", type=int, default=64, help="tokens decoded in each repeat")
    parser.add_argument("--repeats", type=int, default=5)
    return parser


def run(args: argparse.Namespace, settings: Settings) -> int:
    loaded = load(settings)
    ks = ks_of(args.k, loaded.info.num_experts)
    print(json.dumps(benchmark(loaded.model, loaded.tokenizer, loaded.info, ks, args.new_tokens, args.repeats)))
    return 0
