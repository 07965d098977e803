"""`compare "…" --k 8,16,32,64`: one prompt under several k, as rows of one batch with one seed, and where they part."""

from __future__ import annotations

import argparse
import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..answer import final_answer
from ..ask import given_seed, request_from_fields, setting_fields
from ..comparison import Difference, Speed, only_one_used, reply_of
from ..lab.compare import differences
from ..lab.layer_budget import settled_request
from ..request import ADAPTIVE
from ..settings import Settings
from ..trace import TraceRecorder
from .loading import load_engine
from .stopping import until_stopped


def add_parser(commands: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        "compare", help="one prompt under several k, where the replies part and why")
    parser.add_argument("prompt")
    parser.add_argument("--k", default="8,16,32,64", help="active experts, comma-separated; 'adaptive' or a "
                        "rule such as top-p:0.4 may be one")
    parser.add_argument("--weighting", default="raw", help="raw, renormalised or mass_preserving")
    parser.add_argument("--system-prompt", default="")
    parser.add_argument("--temperature", default=0)
    parser.add_argument("--top-p", default=1)
    parser.add_argument("--max-new-tokens", default=64)
    parser.add_argument("--seed", default=None)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the texts")
    return parser


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Stopped, it prints the replies so far, and of what follows them what was reached."""
    loaded, engine = load_engine(settings)
    seed = given_seed(args.seed)
    seed = secrets.randbelow(2**32) if seed is None else seed
    ks = [k.strip() for k in args.k.split(",")]
    questions = [request_from_fields(
        args.prompt, info=loaded.info, settings=settings, **setting_fields(k), weighting=args.weighting,
        system_prompt=args.system_prompt, temperature=args.temperature, top_p=args.top_p,
        max_new_tokens=args.max_new_tokens, seed=seed) for k in ks]
    recorders = [TraceRecorder() for _ in questions]
    partings, speeds = list[Difference](), dict[int, float]()
    with until_stopped() as ending:
        for row, event in engine.stream_together([settled_request(engine, q.request) for q in questions]):
            recorders[row].add(event)
        traces = [recorder.trace() for recorder in recorders]
        prompt = traces[0].token_ids[:traces[0].prompt_tokens].tolist()
        for found in differences(engine, prompt, [reply_of(t) for t in traces], [q.request.routing for q in questions]):
            if isinstance(found, Difference):
                partings.append(found)
            elif isinstance(found, Speed):
                speeds[found.num_experts_per_tok] = found.tokens_per_s
    begun = [(recorder, q) for recorder, q in zip(recorders, questions, strict=True) if recorder.new_tokens]
    replies = [final_answer(recorder, q.choice) for recorder, q in begun]
    for reply in replies:
        reply["tokens_per_s_alone"] = None if reply["policy"] else speeds.get(reply["num_experts_per_tok"])
        reply["active_params"] = loaded.info.active_params(reply["mean_k"])
    names = [k if k == ADAPTIVE or ":" in k else f"k={k}" for k in ks]
    if args.json:
        print(json.dumps({"model": loaded.info.name, "seed": seed, "settings": names, "replies": replies,
                          "partings": [_plain(p) for p in partings]}))
    else:
        print("\n\n".join([*(_told(name, reply) for name, reply in zip(names, replies, strict=False)),
                           *(_why(p, names) for p in partings)]))
    return ending.exit_code


def _plain(parting: Difference) -> dict[str, Any]:
    return asdict(parting) | {"token_ids": parting.token_ids.tolist(), "probs": parting.probs.round(6).tolist()}


def _told(name: str, reply: dict[str, Any]) -> str:
    alone = reply["tokens_per_s_alone"]
    figures = [f"{reply['new_tokens']} tokens", f"{alone:.1f} tok/s alone" if alone else "",
               f"{reply['active_params']:,} active parameters", f"mass {reply['routing_mass']:.2f}"]
    return f"{name} · {' · '.join(filter(None, figures))}\n{reply['text'].strip()}"


def _why(parting: Difference, names: Sequence[str]) -> str:
    """The distributions where replies part, and how many experts only one of the first two that differ used."""
    these = [names[i] for i in parting.replies]
    lines = [f"token {parting.position + 1}: {', '.join(these)} part"]
    for i, text in enumerate(parting.texts):
        shares = (f"{name} {'*' if parting.taken[n] == i else ''}{100 * parting.probs[n, i]:.1f} %"
                  for n, name in enumerate(these))
        lines.append(f"  {'end of reply' if parting.ends[i] else repr(text):<16} {'   '.join(shares)}")
    other = next((n for n, taken in enumerate(parting.taken) if taken != parting.taken[0]), 1)
    first, second = only_one_used(parting.experts[0], parting.experts[other])
    lines.append(f"  experts only {these[0]} used: {sum(map(len, first))}, only {these[other]}: "
                 f"{sum(map(len, second))}, over {len(first)} layers   (* what was taken)")
    return "\n".join(lines)
