"""The shell: `python -m olmoe_space generate "…" --k 16 --seed 0 --json`, `choose "…"`,
`dataflow "…"`, `quality --k 4,8,16,32`, `benchmark`."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from .answer import final_answer
from .ask import MODES, Question, choice_from_fields, request_from_fields
from .engine.engine import Engine
from .engine.proof import prove
from .events import Token
from .lab.benchmark import benchmark, hardware
from .lab.dataflow import as_json, as_text, walk
from .lab.quality import HELD_OUT, as_rows, as_table, quality, read_texts, speeds
from .model.loader import LoadedModel, ModelUnavailable, load
from .request import ADAPTIVE, RoutingPolicy
from .settings import Settings, from_environment
from .trace import TraceRecorder
from .truth import Score, verdict


def main(arguments: list[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    try:
        settings = from_environment()
        if args.model:
            settings = replace(settings, model=args.model)
        if args.dtype:
            settings = replace(settings, dtype=args.dtype)
        return args.run(args, settings)
    except (ValueError, ModelUnavailable) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m olmoe_space", description=__doc__)
    parser.add_argument("--model", help="hub id or folder; default: OLMOE_MODEL, else by device")
    parser.add_argument("--dtype", help="float32, bfloat16 or float16; default: OLMOE_DTYPE, else by device")
    commands = parser.add_subparsers(required=True, metavar="command")

    generate = commands.add_parser("generate", help="answer one message")
    generate.add_argument("message")
    generate.add_argument("--k", default=None, help="active experts, 1..64, or 'adaptive'; default: the model's own")
    generate.add_argument("--k-min", default=None)
    generate.add_argument("--k-max", default=None)
    generate.add_argument("--weighting", default="raw", help="raw, renormalised or mass_preserving")
    generate.add_argument("--system-prompt", default="")
    generate.add_argument("--temperature", default=0.6)
    generate.add_argument("--top-p", default=0.95)
    generate.add_argument("--max-new-tokens", default=256)
    generate.add_argument("--seed", default=None)
    generate.add_argument("--json", action="store_true", help="print one JSON object at the end instead of the text")
    generate.add_argument("--trace", metavar="FILE.npz", help="save the routing trace")
    generate.set_defaults(run=_generate)

    choose = commands.add_parser("choose", help="the k that adaptive routing gives a message, with its reasons")
    choose.add_argument("message")
    choose.add_argument("--k-min", default=None)
    choose.add_argument("--k-max", default=None)
    choose.set_defaults(run=_choose)

    flow = commands.add_parser("dataflow", help="one token's way through the model, every step in numbers")
    flow.add_argument("text", help="read as it stands, without a chat's role tags")
    flow.add_argument("--layer", type=int, default=0, help="the layer told in full; -1 is the last")
    flow.add_argument("--token", type=int, default=-1, help="the token walked; -1 is the last")
    flow.add_argument("--k", default=None, help="active experts; default: the model's own")
    flow.add_argument("--weighting", default="raw", help="raw, renormalised or mass_preserving")
    flow.add_argument("--json", action="store_true", help="print one JSON object")
    flow.set_defaults(run=_dataflow)

    costs = commands.add_parser("quality", help="what each k costs on a set of texts, in nats a token and in speed")
    costs.add_argument("--k", default="4,8,16,32", help="active experts to measure, comma-separated")
    costs.add_argument("--weighting", default="raw", help="raw, renormalised or mass_preserving; several with commas")
    costs.add_argument("--text", action="append", metavar="FILE", type=Path,
                       help='JSONL with "text" in each line, or a plain text; may be repeated; default: eight short '
                            "texts written for this")
    costs.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    costs.set_defaults(run=_quality)

    speed = commands.add_parser("benchmark", help="speed against stock transformers, in one run")
    speed.add_argument("--k", default="8,64", help="active experts to measure, comma-separated")
    speed.add_argument("--new-tokens", type=int, default=64, help="tokens decoded in each repeat")
    speed.add_argument("--repeats", type=int, default=5)
    speed.set_defaults(run=_benchmark)
    return parser


def _generate(args: argparse.Namespace, settings: Settings) -> int:
    loaded, engine = _load(settings)
    question = _question(args, loaded, settings)
    recorder = TraceRecorder()
    for event in engine.stream(question.request):
        recorder.add(event)
        if isinstance(event, Token) and not args.json:
            print(event.text, end="", flush=True)
    if args.json:
        print(json.dumps(final_answer(recorder, question.choice)))
    else:
        print()
    if args.trace:
        with open(args.trace, "wb") as file:
            file.write(recorder.trace().to_npz())
    return 0


def _question(args: argparse.Namespace, loaded: LoadedModel, settings: Settings) -> Question:
    adaptive = args.k == ADAPTIVE
    return request_from_fields(
        args.message, None, info=loaded.info, settings=settings, mode=MODES[1] if adaptive else MODES[0],
        num_experts_per_tok=None if adaptive else args.k, k_min=args.k_min, k_max=args.k_max,
        weighting=args.weighting, system_prompt=args.system_prompt, temperature=args.temperature, top_p=args.top_p,
        max_new_tokens=args.max_new_tokens, seed=args.seed)


def _choose(args: argparse.Namespace, settings: Settings) -> int:
    info = load(settings).info
    print(json.dumps(choice_from_fields(args.message, args.k_min, args.k_max, info=info, settings=settings).as_dict()))
    return 0


def _dataflow(args: argparse.Namespace, settings: Settings) -> int:
    loaded, engine = _load(settings)
    routing = RoutingPolicy(loaded.info.default_k if args.k is None else args.k, args.weighting)
    told = walk(engine, args.text, args.token, routing)
    print(json.dumps(as_json(told, args.layer)) if args.json else as_text(told, args.layer))
    return 0


def _benchmark(args: argparse.Namespace, settings: Settings) -> int:
    loaded = load(settings)
    ks = [int(k) for k in args.k.split(",")]
    print(json.dumps(benchmark(loaded.model, loaded.tokenizer, loaded.info, ks, args.new_tokens, args.repeats)))
    return 0


def _quality(args: argparse.Namespace, settings: Settings) -> int:
    """Interrupted, it prints what it has, with the speed left out if it was not reached, and ends with 130."""
    texts = read_texts(args.text or [HELD_OUT])
    policies = [RoutingPolicy(k, weighting) for weighting in args.weighting.split(",") for k in args.k.split(",")]
    ks = [int(p.num_experts_per_tok) for p in policies]
    loaded, engine = _load(settings)
    if max(ks) > loaded.info.num_experts:
        raise ValueError(f"Active experts (k) must be from 1 to {loaded.info.num_experts}; got {max(ks)}.")
    done, scores, measured, interrupted = 0, list[Score](), [], False
    try:
        for done, scores in quality(engine, texts, ks, list(dict.fromkeys(p.weighting for p in policies))):
            print(f"\r{done} of {len(texts)} texts, {len(scores[0].nll):,} tokens", end="", file=sys.stderr, flush=True)
        if scores:
            measured = speeds(engine, scores, max(texts, key=len))
    except KeyboardInterrupt:
        interrupted = True
    print(f"\r{'stopped after ' if interrupted else ''}{done} of {len(texts)} texts" + " " * 20, file=sys.stderr)
    if not scores:
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
    return 130 if interrupted else 0


def _load(settings: Settings) -> tuple[LoadedModel, Engine]:
    loaded = load(settings)
    engine = Engine(loaded.model, loaded.tokenizer, settings.max_request_s, settings.backend)
    prove(loaded.model, engine.kernels)
    return loaded, engine


if __name__ == "__main__":
    sys.exit(main())
