"""`quality --k 4,8,16,32`: what each k costs on a set of texts, in nats a token and in speed."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ..lab.benchmark import hardware
from ..lab.quality import HELD_OUT, as_rows, as_table, quality, read_texts, speeds
from ..request import RoutingPolicy
from ..settings import Settings
from ..truth import Score, verdict
from .loading import ks_of, load_engine
from .stopping import until_stopped


def add_parser(commands: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        "quality", help="what each k costs on a set of texts, in nats a token and in speed")
    parser.add_argument("--k", default="4,8,16,32", help="active experts to measure, comma-separated")
    parser.add_argument("--weighting", default="raw", help="raw, renormalised or mass_preserving; several with commas")
    parser.add_argument("--text", action="append", metavar="FILE", type=Path,
                        help='JSONL with "text" in each line, or a plain text; may be repeated; default: eight short '
                             "texts written for this")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    return parser


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Stopped, it prints what it has, with the speed left out if it was not reached."""
    texts = read_texts(args.text or [HELD_OUT])
    weightings = [RoutingPolicy(weighting=name).weighting for name in dict.fromkeys(args.weighting.split(","))]
    loaded, engine = load_engine(settings)
    ks = ks_of(args.k, loaded.info.num_experts)
    done, scores, measured = 0, list[Score](), []
    with until_stopped() as ending:
        for done, scores in quality(engine, texts, ks, weightings):
            print(f"\r{done} of {len(texts)} texts, {len(scores[0].nll):,} tokens", end="", file=sys.stderr, flush=True)
        if scores:
            measured = speeds(engine, scores, max(texts, key=len))
    print(f"\r{done} of {len(texts)} texts" + " " * 20, file=sys.stderr)
    if not scores:
        if ending.early:
            return ending.exit_code
        raise ValueError("The texts have no token that stands behind another; there is nothing to measure.")
    own = scores[0]
    if args.json:
        print(json.dumps({"model": loaded.info.name, "dtype": loaded.info.dtype, "hardware": hardware(loaded.info),
                          "texts": done, "of_texts": len(texts), "own_k": own.num_experts_per_tok,
                          "settings": as_rows(scores, measured)}))
    else:
        print(as_table(scores, measured))
        rate = {s.num_experts_per_tok: s.tokens_per_s for s in measured}
        for score in scores[1:]:
            print(verdict(score, own, rate.get(score.num_experts_per_tok), rate.get(own.num_experts_per_tok),
                          "these texts"))
    return ending.exit_code
