"""`generate "…"`: answers one message, as text while it is written or as one JSON object."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ..answer import final_answer
from ..ask import FIXED, request_from_fields
from ..events import Token
from ..request import ADAPTIVE
from ..settings import Settings
from ..trace import TraceRecorder
from .loading import load_engine
from .stopping import until_stopped


def add_parser(commands: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser("generate", help="answer one message")
    parser.add_argument("message")
    parser.add_argument("--k", default=None, help="active experts, 1..64, or 'adaptive'; default: the model's own")
    parser.add_argument("--k-min", default=None)
    parser.add_argument("--k-max", default=None)
    parser.add_argument("--weighting", default="raw", help="raw, renormalised or mass_preserving")
    parser.add_argument("--system-prompt", default="")
    parser.add_argument("--temperature", default=0.6)
    parser.add_argument("--top-p", default=0.95)
    parser.add_argument("--max-new-tokens", default=256)
    parser.add_argument("--seed", default=None)
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end instead of the text")
    parser.add_argument("--trace", metavar="FILE.npz", type=Path, help="save the routing trace")
    return parser


def run(args: argparse.Namespace, settings: Settings) -> int:
    loaded, engine = load_engine(settings)
    adaptive = args.k == ADAPTIVE
    question = request_from_fields(
        args.message, None, info=loaded.info, settings=settings, mode=ADAPTIVE if adaptive else FIXED,
        num_experts_per_tok=None if adaptive else args.k, k_min=args.k_min, k_max=args.k_max,
        weighting=args.weighting, system_prompt=args.system_prompt, temperature=args.temperature, top_p=args.top_p,
        max_new_tokens=args.max_new_tokens, seed=args.seed)
    recorder = TraceRecorder()
    with until_stopped() as ending:
        for event in engine.stream(question.request):
            recorder.add(event)
            if isinstance(event, Token) and not args.json:
                print(event.text, end="", flush=True)
    if ending.early and not recorder.new_tokens:
        return ending.exit_code
    print(json.dumps(final_answer(recorder, question.choice)) if args.json else "")
    if args.trace:
        args.trace.write_bytes(recorder.trace().to_npz())
    return ending.exit_code
