"""Claims made about OLMoE with more experts, each beside what a run measures of the same thing.

They stand in a guide to "OLMoE inference with more experts" and in its walk through the data flow. Nothing here
decides beforehand: a verdict follows from the measurement by the rule that stands with it. Shapes: T tokens, V
vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean
from typing import Any

import numpy as np
import torch

from ..engine.engine import Engine
from ..model.structure import OlmoeWeights, weights_of
from ..model_info import ModelInfo
from ..performance import AS_CLAIMED, ELSEWHERE, NOT_SO, TOO_CLOSE, Claim, KRun, Machine
from ..request import RoutingPolicy
from .dataflow import walk
from .quality import HELD_OUT, read_texts, windows
from .stock import stock_at
from .teacher_forced import logits_after
from .truth_meter import token_nll

PHRASE = "Artificial intelligence is"
CLAIMED_IDS = (3163, 11478, 374)
CLAIMED_MODEL_PARAMS = 6_919_161_856  # OLMoE-1B-7B: what is claimed of its sizes is judged on it alone
KS = (8, 16, 32, 64)
STARS = (8, 16, 32)  # each step is said to be better; 64 has as many stars as 32
SPEED, TIME = {16: 0.6, 32: 0.3, 64: 0.15}, {16: 1.5, 32: 3.0, 64: 7.0}  # of that at k=8
MASS = {8: 0.50, 16: 0.68, 32: 0.85}
GROWTH = {16: 2.6 / 1.3, 32: 5.2 / 1.3}
WITHIN = 0.2        # of the claimed figure: what two runs on a busy machine may differ by
MASS_WITHIN = 0.05  # the claims are rounded to a few hundredths


@dataclass(frozen=True)
class Text:
    """Held-out text, teacher-forced at one k. nll: float64 [T], what each token costs, in nats. entropy: of the
    next-token distributions, mean, in nats; less is more confident."""

    k: int
    nll: np.ndarray
    entropy: float


@dataclass(frozen=True)
class Evidence:
    """What is measured for the claims alone, beside the runs.

    config_effect: largest change of a logit when model.config.num_experts_per_tok is set to twice the k of the loaded
    model. router_effect: the same when k is set where the routers keep it. token_ids: of PHRASE. sum_error: relative
    error of the weighted sum of the selected experts' outputs against what the model adds. weight_sum: the weights'
    own sum, mean over layers.
    """

    texts: tuple[Text, ...]
    config_effect: float
    router_effect: float
    token_ids: tuple[int, ...]
    sum_error: float
    weight_sum: float


def check_claims(engine: Engine, info: ModelInfo, place: Machine, runs: Sequence[KRun]) -> Iterator[list[Claim]]:
    """Measures what the runs do not have, and holds every claim against it. A k that was not run has no row."""
    yield claims(gather(engine), weights_of(engine.model), info, place, {run.k: run for run in runs})


@torch.inference_mode()
def gather(engine: Engine) -> Evidence:
    weights = weights_of(engine.model)
    told = walk(engine, PHRASE)
    config, router = switch_effects(engine, told.token_ids)
    return Evidence(
        tuple(text_at(engine, k) for k in KS if k <= weights.num_experts), config, router, told.token_ids,
        next(check.error for check in told.checks if check.name == "experts"),
        mean(sum(work.weight for work in layer.experts) for layer in told.layers))


def text_at(engine: Engine, k: int) -> Text:
    """The held-out texts at k, raw weights, each by itself."""
    nll, entropy = list[torch.Tensor](), list[torch.Tensor]()
    for ids in (part for text in read_texts([HELD_OUT]) for part in windows(engine, text)):
        log_probs = torch.log_softmax(torch.cat(list(logits_after(engine, ids, RoutingPolicy(k), 1))), -1)  # [T, V]
        nll.append(token_nll(log_probs, torch.tensor(ids[1:], device=log_probs.device)))
        entropy.append(-(log_probs.exp() * log_probs).sum(-1))
    return Text(k, torch.cat(nll).double().cpu().numpy(), float(torch.cat(entropy).double().mean()))


def switch_effects(engine: Engine, token_ids: Sequence[int]) -> tuple[float, float]:
    """Largest change of stock transformers' last logits [V] when k is doubled: by the config, and by the routers."""
    model: Any = engine.model
    ids = torch.tensor([list(token_ids)], device=model.device)
    own = int(model.config.num_experts_per_tok)
    other = min(2 * own, int(model.config.num_experts))

    def logits() -> torch.Tensor:
        return model(ids, use_cache=False, logits_to_keep=1).logits[0, -1].float()

    with engine.turn:
        before = logits()
        try:
            model.config.num_experts_per_tok = other
            by_config = logits()
        finally:
            model.config.num_experts_per_tok = own
        with stock_at(model, other):
            by_router = logits()
    return float((by_config - before).abs().max()), float((by_router - before).abs().max())


def claims(found: Evidence, weights: OlmoeWeights, info: ModelInfo, place: Machine,
           runs: dict[int, KRun]) -> list[Claim]:
    """Every claim with its measurement and verdict; those about a k need that k's run."""
    return [*_speed(runs), *_quality(found.texts), *_routing(found, runs), *_structure(found, weights, info),
            *_sizes(info, place, runs)]


def _verdict(holds: bool) -> str:
    return AS_CLAIMED if holds else NOT_SO


def _near(measured: float, claimed: float) -> bool:
    return abs(measured - claimed) <= WITHIN * claimed


def _speed(runs: dict[int, KRun]) -> Iterator[Claim]:
    own = runs.get(8)
    if own is None:
        return
    yield Claim("Speed at k=8", "25–30 tok/s (OLMoE-1B-7B, T4)", f"{own.tokens_per_s:.1f} tok/s", ELSEWHERE)
    for k in SPEED:
        if k in runs:
            speed, spent = runs[k].tokens_per_s / own.tokens_per_s, runs[k].seconds / own.seconds
            yield Claim(f"Speed at k={k}, against k=8", f"{SPEED[k]} × the speed, {TIME[k]} × the time",
                        f"{speed:.2f} × the speed, {spent:.2f} × the time",
                        _verdict(_near(speed, SPEED[k]) and _near(spent, TIME[k])))
    if 16 in runs:
        a, b = own.token_ids, runs[16].token_ids
        first = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
        said = f"token {first + 1} is the first that differs" if first is not None else (
            f"no token of {min(len(a), len(b))} differs")
        yield Claim("k=16 writes another text than k=8", "yes, from a few words on", said, _verdict(first is not None))


def _quality(texts: Sequence[Text]) -> Iterator[Claim]:
    costs = ", ".join(f"{t.nll.mean():.3f} at k={t.k}" for t in texts)
    at = {t.k: t.nll for t in texts}
    yield Claim("More experts, better text", "★★★ at 8, ★★★★ at 16, ★★★★★ at 32 and 64",
                f"nats a token over {len(texts[0].nll)} held-out tokens: {costs}",
                better_by_steps([at[k] for k in STARS if k in at]))
    confident = all(a.entropy > b.entropy for a, b in pairwise(texts))
    yield Claim("More mass, more confident predictions", "yes", "entropy of the next token, nats: "
                + ", ".join(f"{t.entropy:.3f} at k={t.k}" for t in texts), _verdict(confident))


def better_by_steps(costs: Sequence[np.ndarray]) -> str:
    """The verdict on "each costs less than the one before": nats [T] of the same tokens at each step. A step counts
    if its mean is beyond two standard errors of the token-by-token difference."""
    clear, worse = True, False
    for before, after in pairwise(costs):
        gain = before - after
        error = gain.std(ddof=1) / np.sqrt(len(gain))
        clear &= bool(gain.mean() > 2 * error)
        worse |= bool(gain.mean() < -2 * error)
    return AS_CLAIMED if clear else NOT_SO if worse else TOO_CLOSE


def _routing(found: Evidence, runs: dict[int, KRun]) -> Iterator[Claim]:
    shown = [k for k in MASS if k in runs]
    if shown:
        mass = {k: runs[k].mass for k in shown}
        yield Claim("Share of the routers’ probability that is selected",
                    ", ".join(f"{MASS[k]:.0%} at k={k}" for k in shown),
                    ", ".join(f"{mass[k].mean():.0%} at k={k} (layers {mass[k].min():.0%}–{mass[k].max():.0%})"
                              for k in shown),
                    _verdict(all(abs(mass[k].mean() - MASS[k]) <= MASS_WITHIN for k in shown)))
    yield Claim("What is not selected", "stays in the output: 0.50 × [residual/uncertainty]",
                "the sum of the selected experts is all that is added, to a relative error of "
                f"{found.sum_error:.0e}", _verdict(found.sum_error > 0.01))
    yield Claim("The experts’ outputs", "weighted average",
                f"weighted sum: the weights add up to {found.weight_sum:.2f}",
                _verdict(abs(found.weight_sum - 1) < 0.01))
    yield Claim("model.config.num_experts_per_tok = 16 after loading", "16 experts work",
                f"with k doubled there the largest change of a logit is {found.config_effect:.3g}; "
                f"doubled in the routers, {found.router_effect:.3g}", _verdict(found.config_effect > 0))


def _structure(found: Evidence, weights: OlmoeWeights, info: ModelInfo) -> Iterator[Claim]:
    layers = len(weights.layers)
    yield Claim("Order of the layers", "attention of all 16 layers, then a router",
                f"{layers} routers, each behind the attention of its own layer", _verdict(layers == 1))
    layer = weights.layers[0]
    hidden, inner = weights.embedding.shape[1], layer.down_proj.shape[2]
    matrices = layer.gate_up_proj.shape[1] // inner + 1
    yield Claim("An expert", "2048 → 1024 → 2048, a matrix each way",
                f"{hidden} → 2 × {inner} (gate and up) → {hidden}: {matrices} matrices", _verdict(matrices == 2))
    yield Claim(f"Token ids of “{PHRASE}”", f"{list(CLAIMED_IDS)}, three tokens",
                f"{list(found.token_ids)}, {len(found.token_ids)} tokens",
                _of_that_model(info, found.token_ids == CLAIMED_IDS))
    rows = weights.lm_head.shape[0]
    yield Claim("Rows of the head", "50280", str(rows), _of_that_model(info, rows == 50280))


def _sizes(info: ModelInfo, place: Machine, runs: dict[int, KRun]) -> Iterator[Claim]:
    shown = [k for k in GROWTH if k <= info.num_experts]
    if info.default_k == 8 and shown:
        growth = {k: info.active_params(k) / info.active_params(8) for k in shown}
        yield Claim("Active parameters, against k=8",
                    ", ".join(f"{GROWTH[k]:.0f} × at k={k}" for k in shown) + " (1.3B, 2.6B, 5.2B)",
                    ", ".join(f"{growth[k]:.2f} × at k={k} ({info.active_params(k):,})" for k in shown),
                    _verdict(all(abs(growth[k] - GROWTH[k]) < 0.05 * GROWTH[k] for k in shown)))
    peak = max((run.peak_bytes for run in runs.values()), default=0)
    yield Claim("Memory", "12 GB are enough", f"{place.weight_bytes / 1e9:.2f} GB of weights; peak {peak / 1e9:.2f} GB",
                _of_that_model(info, max(peak, place.weight_bytes) <= 12e9))


def _of_that_model(info: ModelInfo, holds: bool) -> str:
    return _verdict(holds) if info.total_params == CLAIMED_MODEL_PARAMS else ELSEWHERE
