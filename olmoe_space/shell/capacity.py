"""`capacity 1000`: replicas for so many visitors, by a simulation whose service times come from the benchmark."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from ..request import whole_number
from ..scale.service_times import MEASURED, from_benchmark
from ..scale.simulation import Death, Fleet, Load, Outcome, simulate, smallest_fleet
from ..settings import Settings

SERVED = 1.9  # times a step's and a prompt's own time: 32 chats through Ray on an H200 (README); 1.25 without Ray
CELL = 10_000  # visitors; more are as many cells, each with a queue, replicas and front ends of its own
SECONDS, WARM_UP_S = 300.0, 120.0


def add_parser(commands: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        "capacity", help="how many replicas so many visitors need, simulated",
        description="Simulates visitors who think, ask and read, and looks for the fewest replicas that refuse nobody "
                    f"and are in time; more than {CELL:,} visitors are served in cells of at most so many.")
    parser.add_argument("visitors", help="on the page at once")
    parser.add_argument("--benchmark", type=Path, default=MEASURED, metavar="FILE",
                        help="what `benchmark` printed on the GPU in question (default: an H200, with this project)")
    parser.add_argument("--k", type=int, help="of every request; default: 4, 8, 16 and 32 mixed")
    parser.add_argument("--think", type=float, default=60, help="mean seconds between a reply and the next question")
    parser.add_argument("--new-tokens", type=float, default=250, help="mean length of a reply")
    parser.add_argument("--prompt-tokens", type=int, default=500, help="of a prompt with its history")
    parser.add_argument("--slots", type=int, default=32, help="replies that a replica decodes at once")
    parser.add_argument("--first-token", type=float, default=1.0, help="seconds in which 95 of 100 get theirs")
    parser.add_argument("--served", type=float, default=SERVED, metavar="TIMES",
                        help=f"the benchmark's times a step and a prompt take in a replica; default: {SERVED}")
    parser.add_argument("--price", type=float, default=5.0, help="dollars an hour for a replica's GPU")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    return parser


def run(args: argparse.Namespace, settings: Settings) -> int:
    for name in ("think", "new_tokens", "prompt_tokens", "slots", "first_token", "served"):
        if not getattr(args, name) > 0:
            raise ValueError(f"--{name.replace('_', '-')} must be more than 0; got {getattr(args, name)}.")
    visitors = whole_number(args.visitors, "Visitors", 1, 100_000_000)
    service = from_benchmark(args.benchmark, args.k).slower(args.served)
    cells = math.ceil(visitors / CELL)
    load = Load(math.ceil(visitors / cells), args.think, args.new_tokens, args.prompt_tokens)
    fleet, outcome = smallest_fleet(load, service, args.slots, settings.max_queue, args.first_token, SECONDS)
    death = [Death(WARM_UP_S + SECONDS / 3, 0)]
    told = {"visitors": visitors, "cells": cells, "hardware": service.hardware,
            "replicas": cells * fleet.replicas, "spare_replicas": cells,
            "dollars_an_hour": args.price * cells * (fleet.replicas + 1),
            "dollars_a_thousand_replies": round(args.price * (fleet.replicas + 1) / outcome.replies_per_s / 3.6, 3),
            "as_it_is": figures(outcome, cells),
            "one_of_a_cell_dies": figures(simulate(load, fleet, service, SECONDS, WARM_UP_S, death), cells),
            "one_dies_with_a_spare": figures(
                simulate(load, Fleet(fleet.replicas + 1, fleet.slots, fleet.queue), service, SECONDS, WARM_UP_S, death),
                cells)}
    print(json.dumps(told) if args.json else as_table(told))
    return 0


def figures(outcome: Outcome, cells: int) -> dict[str, Any]:
    """Of all cells together, from one that stands for them."""
    median, late = np.percentile(outcome.first_token_s, (50, 95))
    slow, usual = np.percentile(outcome.tokens_per_s, (5, 50))
    return {"replies_per_s": round(cells * outcome.replies_per_s, 2), "rows": round(outcome.rows, 1),
            "refused": round(outcome.refused / max(1, outcome.replies + outcome.refused), 4),
            "moved": outcome.moved, "first_token_s": [round(float(median), 3), round(float(late), 3)],
            "tokens_per_s": [round(float(usual), 1), round(float(slow), 1)]}


def as_table(told: dict[str, Any]) -> str:
    lines = [f"{told['visitors']:,} visitors, {told['cells']} cell(s), times of {told['hardware']}: "
             f"{told['replicas']} replicas and {told['spare_replicas']} spare, "
             f"${told['dollars_an_hour']:,.2f} an hour, ${told['dollars_a_thousand_replies']} a thousand replies",
             f"{'':<24}{'replies/s':>11}{'rows':>7}{'refused':>9}{'moved':>7}{'first token s, 50 and 95 %':>28}"
             f"{'tok/s, 50 and 5 %':>20}"]
    for name in ("as_it_is", "one_of_a_cell_dies", "one_dies_with_a_spare"):
        f = told[name]
        lines.append(f"{name.replace('_', ' '):<24}{f['replies_per_s']:>11,}{f['rows']:>7}{100 * f['refused']:>7.2f} %"
                     f"{f['moved']:>7}{f['first_token_s'][0]:>19.3f}{f['first_token_s'][1]:>9.3f}"
                     f"{f['tokens_per_s'][0]:>13.1f}{f['tokens_per_s'][1]:>7.1f}")
    return "\n".join(lines)
