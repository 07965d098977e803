"""`experts ["…"]`: what the routers make of a text, or without one what the loaded model's experts are for."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from ..engine.engine import Engine
from ..lab.benchmark import hardware
from ..lab.domain_sample import domains
from ..lab.reading import read_sample, survey_texts
from ..lab.specialisation import study
from ..model.loader import LoadedModel
from ..request import RoutingPolicy
from ..settings import Settings
from ..survey import Overlap, RoutedText, Study, Survey, study_as_json, survey_as_json
from .loading import load_engine
from .stopping import until_stopped


def add_parser(commands: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        "experts", help="what the routers make of a text; without one, what the model's experts are for")
    parser.add_argument("text", nargs="?", help="read as it stands; default: the sample of seven domains")
    parser.add_argument("--other", help="another text, to compare the loads of experts with")
    parser.add_argument("--k", default=None, help="active experts; default: the model's own")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def run(args: argparse.Namespace, settings: Settings) -> int:
    if args.other and not args.text:
        raise ValueError("--other is compared with a text: give one.")
    loaded, engine = load_engine(settings)
    policy = RoutingPolicy(loaded.info.default_k if args.k is None else args.k)
    told = {"model": loaded.info.name, "dtype": loaded.info.dtype, "hardware": hardware(loaded.info)}
    if args.text:
        texts = [("the text", args.text), *([("the other", args.other)] if args.other else [])]
        return _survey(list(survey_texts(engine, texts, policy)), told, args.json)
    return _study(engine, loaded, policy, told, args.json)


def _survey(results: list[Survey | Overlap], told: dict[str, Any], as_json: bool) -> int:
    surveys = [r for r in results if isinstance(r, Survey)]
    overlaps = [r for r in results if isinstance(r, Overlap)]
    if as_json:
        print(json.dumps(told | {"surveys": [survey_as_json(s) for s in surveys],
                                 "jensen_shannon_bits": [o.divergence.round(5).tolist() for o in overlaps]}))
        return 0
    for survey in surveys:
        print(survey_as_text(survey))
    for overlap in overlaps:
        print(f"Jensen-Shannon divergence of the loads, mean over layers: {overlap.divergence.mean():.4f} bits")
    return 0


def _study(engine: Engine, loaded: LoadedModel, policy: RoutingPolicy, told: dict[str, Any], as_json: bool) -> int:
    """Stopped, it tells what was read."""
    texts: list[RoutedText] = []
    with until_stopped() as ending:
        for domain in domains():
            for text in read_sample(engine, domain, policy):
                texts.append(text)
                print(f"\r{domain}: {len(texts)} texts  ", end="", file=sys.stderr, flush=True)
    print("\r" + " " * 40, file=sys.stderr)
    if not texts:
        return ending.exit_code
    measured = study(texts, loaded.info.num_experts)
    print(json.dumps(told | {"study": study_as_json(measured)}) if as_json else study_as_text(measured))
    return ending.exit_code


def survey_as_text(survey: Survey) -> str:
    """A line a layer."""
    head = f"{'layer':>5}{'busiest/mean':>14}{'deviation/mean':>16}{'entropy':>9}" + "".join(
        f"{f'mass@{k}':>9}" for k in survey.mass) + f"{'never fired':>13}"
    lines = [f"{survey.name}: {len(survey.pieces)} tokens, k = {survey.num_experts_per_tok}", head]
    for i, silent in enumerate(survey.never_fired):
        lines.append(f"{i:>5}{survey.max_over_mean[i]:>14.2f}{survey.variation[i]:>16.2f}{survey.entropy[i]:>9.2f}"
                     + "".join(f"{mass[i]:>9.3f}" for mass in survey.mass.values()) + f"{len(silent):>13}")
    return "\n".join(lines)


def study_as_text(measured: Study) -> str:
    """The claims, and of each group the expert that it prefers most."""
    lines = [f"{measured.tokens:,} tokens of {measured.texts} texts, k = {measured.num_experts_per_tok}; uniform share "
             f"{measured.uniform:.3f}", ""]
    for shares in measured.shares:
        for number, (group, tokens) in enumerate(zip(shares.groups, shares.tokens.tolist(), strict=True)):
            layer, expert, share = shares.strongest(number)
            lines.append(f"{shares.what:<10}{group:<18}{tokens:>7,} tokens   most: layer {layer}, expert {expert}, "
                         f"{share:.3f}")
    lines += ["", f"{'claim':<54}{'effect':>8}{'shuffled':>10}{'p':>6}  verdict"]
    lines += [f"{i.claim:<54}{i.effect:>8.3f}{i.control:>10.3f}{i.p:>6.2f}  {i.verdict}" for i in measured.insights]
    return "\n".join(lines)
