"""`benchmark`: speed of this engine beside stock transformers and what memory allows, in one run."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..lab.benchmark import benchmark, decode
from ..lab.benchmark_records import Plan, Record
from ..lab.benchmark_report import as_json, as_table, curve
from ..lab.performance import machine
from ..lab.stock import RECIPES
from ..model.int8 import to_int8
from ..model.loader import LoadedModel, has_cuda, load, load_random
from ..settings import HUB_MODEL, Settings
from .loading import engine_for
from .stopping import until_stopped

# Without arguments: on a CPU a minute or two, on a GPU the whole table.
DEFAULTS = {"cpu": {"k": "1,8,64", "batch": "1,8", "prefill": "256", "new_tokens": 32, "repeats": 3, "agreement": 64},
            "cuda": {"k": "1,2,4,8,16,32,64", "batch": "1,8,32", "prefill": "128,512,2048", "new_tokens": 64,
                     "repeats": 5, "agreement": 256}}


def add_parser(commands: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        "benchmark", help="speed against stock transformers and the memory's limit, in one run",
        description="Prints a table and, last, one JSON line. Ctrl-C or SIGTERM ends it with what has been measured. "
                    "A batch of more than one row is also measured with rows of k = 4, 8, 16 and 32 mixed.")
    parser.add_argument("--random-weights", nargs="?", const=HUB_MODEL, metavar="HUB_ID",
                        help=f"random weights of this model's shape, without the hub (default {HUB_MODEL})")
    parser.add_argument("--k", help="active experts, comma-separated; default on a GPU 1,2,4,8,16,32,64")
    parser.add_argument("--batch", help="rows decoded together, comma-separated; default on a GPU 1,8,32")
    parser.add_argument("--prefill", help="prompt lengths in tokens; those over the context are left out; 0: none")
    parser.add_argument("--chats", type=int, default=8, help="streams at once; 1: not measured (default 8)")
    parser.add_argument("--stock", default="generate", metavar="RECIPE[,RECIPE]",
                        help="stock transformers beside it: none, or of " + "; ".join(
                            f"{r.name} (compiles: {r.compile_cost or 'nothing'})" for r in RECIPES.values()))
    parser.add_argument("--int8", action="store_true", help="at the end, decode at batch 1 with 8-bit weights too")
    parser.add_argument("--new-tokens", type=int, help="tokens decoded in each repeat")
    parser.add_argument("--agreement", type=int, metavar="TOKENS",
                        help="greedy tokens of each row compared with stock's (default on a GPU 256); 0: none")
    parser.add_argument("--repeats", type=int, help="of each measurement, after one to warm up")
    parser.add_argument("--plot", metavar="FILE.png", type=Path, help="draw decode speed at batch 1 against k")
    return parser


def run(args: argparse.Namespace, settings: Settings) -> int:
    plan = _plan(args, DEFAULTS["cuda" if has_cuda() else "cpu"])
    settings = replace(settings, max_request_s=float("inf"), max_slots=max(*plan.batches, plan.chats))
    loaded = load_random(args.random_weights, settings) if args.random_weights else load(settings)
    if settings.weights == "int8":  # stock has no such weights, and would be measured dequantising ours
        plan = replace(plan, recipes=(), agreement=0)
    plan = replace(plan, batches=tuple(b for b in plan.batches if b <= loaded.room.slots) or (1,))
    began = time.perf_counter()
    loaded, engine = engine_for(loaded, settings)
    ready_s = time.perf_counter() - began
    _say("copying, to learn how fast memory is")
    [place] = machine(engine, loaded.info)
    records: list[Record] = []
    with until_stopped() as ending:
        for record in benchmark(engine, loaded.info, plan, place.bandwidth, _say):
            _keep(record, records)
        if args.int8 and settings.weights != "int8":
            del engine  # and with it what it holds of the wider weights
            eight, engine = engine_for(_in_int8(loaded), settings)
            for record in decode(engine, eight.info, replace(plan, batches=(1,), recipes=()),
                                 place.bandwidth, _say):
                _keep(record, records)
    _say("")
    info = loaded.info
    print(f"{info.name}, {info.dtype}, {info.backend}, {place.hardware}, {place.date}")
    print(f"ready in {ready_s:.1f} s (kernels compiled, graphs captured, k proved); "
          f"copy {place.bandwidth / 1e9:.1f} GB/s")
    print(as_table(records))
    if args.plot and records:
        from ..plots import speed_curves, to_png  # here, since matplotlib takes a second to import

        ks, lines = curve(records)
        args.plot.write_bytes(to_png(speed_curves(ks, lines, model=f"{info.name}, {info.dtype}",
                                                  hardware=place.hardware)))
    print(json.dumps(as_json({"model": info.name, "dtype": info.dtype, "backend": info.backend, **asdict(place),
                              "ready_s": ready_s, "new_tokens": plan.new_tokens, "repeats": plan.repeats,
                              "stopped_early": ending.early}, records)))
    return ending.exit_code


def _keep(record: Record, records: list[Record]) -> None:
    records.append(record)
    _say(as_table([record]).splitlines()[-1] + "\n")


def _in_int8(loaded: LoadedModel) -> LoadedModel:
    """The same model, its weights rounded to 8 bits where they lie."""
    to_int8(loaded.model, loaded.model.device)
    return replace(loaded, info=replace(loaded.info, dtype=f"int8 weights, {loaded.info.dtype}"))


def _plan(args: argparse.Namespace, defaults: dict[str, Any]) -> Plan:
    given = {name: value if (value := getattr(args, name)) is not None else defaults[name] for name in defaults}
    names = [name for name in args.stock.split(",") if name != "none"]
    if unknown := [name for name in names if name not in RECIPES]:
        raise ValueError(f"--stock must be none or of {', '.join(RECIPES)}; got {unknown[0]!r}.")
    prefill = _numbers("--prefill", given["prefill"])
    return Plan(ks=_numbers("--k", given["k"]), batches=_numbers("--batch", given["batch"]),
                prefill=() if prefill == (0,) else prefill, chats=args.chats, new_tokens=given["new_tokens"],
                repeats=given["repeats"], agreement=given["agreement"], recipes=tuple(RECIPES[name] for name in names))


def _numbers(name: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise ValueError(f"{name} must be whole numbers with commas between them; got {text!r}.") from None


def _say(text: str) -> None:
    """One line that is written over, on a terminal or in a log."""
    print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
