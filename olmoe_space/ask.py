"""Loose fields -> one checked request. The page, the endpoints and the shell all ask through here.

Knows the loaded model only by its numbers and nothing of where the fields came from. What cannot be
answered is refused with a ValueError whose sentence is fit to show to whoever asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .adaptive import Choice, choose
from .model_info import ModelInfo
from .request import (
    ADAPTIVE,
    MAX_SEED,
    GenerationRequest,
    Message,
    RoutingPolicy,
    SamplingParams,
    messages_from_history,
    visible_message,
    well_formed,
    whole_number,
)
from .rules import DEFAULTS, LAYER_BUDGET, RANDOM, TOP_P, TokenRule, parse
from .settings import Settings

FIXED = "fixed"
PER_TOKEN = "per-token"
MODES = (FIXED, ADAPTIVE, PER_TOKEN)
DEFAULT_K_MIN = RoutingPolicy.k_min
DEFAULT_K_MAX = RoutingPolicy.k_max


@dataclass(frozen=True)
class Question:
    """A request ready for the engine, and the reasons of its k if that was chosen from the prompt."""

    request: GenerationRequest
    choice: Choice | None = None


def request_from_fields(
    message: Any,
    history: Any = None,
    *,
    info: ModelInfo,
    settings: Settings,
    mode: Any = FIXED,
    num_experts_per_tok: Any = None,
    k_min: Any = None,
    k_max: Any = None,
    rule: Any = None,
    parameter: Any = None,
    weighting: Any = "raw",
    system_prompt: Any = "",
    temperature: Any = 0.6,
    top_p: Any = 0.95,
    max_new_tokens: Any = 256,
    seed: Any = None,
) -> Question:
    """Every field as it came -> a Question. None for k: the model's own. Seed None, "" or -1: a fresh one.

    rule, parameter: of per-token mode alone; None: top-p, and the rule's usual parameter.
    """
    text = visible_message(message, settings.max_message_chars)
    past = messages_from_history(history, settings.max_history_chars, settings.max_history_messages)
    sampling = SamplingParams(
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=whole_number(max_new_tokens, "Max new tokens", 1, settings.max_new_tokens),
        seed=given_seed(seed),
    )
    routing, choice = _routing(text, info, mode, num_experts_per_tok, k_min, k_max, rule, parameter, weighting)
    messages = (*_system(system_prompt, settings), *past, Message("user", text))
    return Question(GenerationRequest(messages, sampling, routing), choice)


def choice_from_fields(message: Any, k_min: Any, k_max: Any, *, info: ModelInfo, settings: Settings) -> Choice:
    """The k that adaptive routing would give `message`, with its reasons."""
    text = visible_message(message, settings.max_message_chars)
    low, high = _range(k_min, k_max, info)
    return choose(text, low, high)


def given_seed(value: Any) -> int | None:
    """A seed as typed; None where it was left to chance."""
    if value is None or (isinstance(value, str) and not value.strip()) or str(value).strip() in ("-1", "-1.0"):
        return None
    return whole_number(value.strip() if isinstance(value, str) else value, "Seed", 0, MAX_SEED)


def setting_fields(setting: str | None) -> dict[str, Any]:
    """A setting as typed where one field says it all ("16", "adaptive", "top-p:0.4"; None: the model's own k) -> the
    fields of a request."""
    if setting == ADAPTIVE:
        return {"mode": ADAPTIVE}
    if setting is not None and ":" in setting:
        return rule_fields(parse(setting))
    return {"mode": FIXED, "num_experts_per_tok": setting}


def rule_fields(rule: TokenRule) -> dict[str, Any]:
    return {"mode": PER_TOKEN, "rule": rule.name, "parameter": rule.parameter}


def usual_parameter(rule: str, info: ModelInfo, k_min: int, k_max: int) -> float:
    """The parameter to start from. A budget: three quarters of what the model spends, within the bounds."""
    if rule == LAYER_BUDGET:
        budget = 3 * info.default_k * info.num_layers // 4
        return min(max(budget, k_min * info.num_layers), k_max * info.num_layers)
    return info.default_k if rule == RANDOM else DEFAULTS[rule]


def _rule(rule: Any, parameter: Any, info: ModelInfo, k_min: int, k_max: int) -> TokenRule:
    name = TOP_P if rule is None else rule
    if parameter is None or (isinstance(parameter, str) and not parameter.strip()):
        TokenRule(name, 1)  # refuses an unknown name
        parameter = usual_parameter(name, info, k_min, k_max)
    found = TokenRule(name, parameter)
    least, most = k_min * info.num_layers, k_max * info.num_layers
    if found.name == LAYER_BUDGET and not least <= found.parameter <= most:
        raise ValueError(f"A layer-budget is for {info.num_layers} layers of {k_min} to {k_max} experts: "
                         f"it must be from {least} to {most}; got {found.parameter:g}.")
    return found


def _routing(text: str, info: ModelInfo, mode: Any, k: Any, k_min: Any, k_max: Any, rule: Any, parameter: Any,
             weighting: Any) -> tuple[RoutingPolicy, Choice | None]:
    """The fields of k are checked in every mode: a slip that passes in one would surprise in another."""
    if not isinstance(mode, str) or mode not in MODES:
        raise ValueError(f"Mode must be {', '.join(MODES[:-1])} or {MODES[-1]}; got {str(mode)[:40]!r}.")
    low, high = _range(k_min, k_max, info)
    fixed_k = info.default_k if k is None else whole_number(k, "Active experts (k)", 1, info.num_experts)
    if mode == PER_TOKEN:
        return RoutingPolicy(fixed_k, weighting, low, high, _rule(rule, parameter, info, low, high)), None
    choice = choose(text, low, high) if mode == ADAPTIVE else None
    return RoutingPolicy(choice.k if choice else fixed_k, weighting, low, high), choice


def _range(k_min: Any, k_max: Any, info: ModelInfo) -> tuple[int, int]:
    """The bounds of a k that is chosen; None: the project's own, as far as the model has experts."""
    low = min(DEFAULT_K_MIN, info.num_experts) if k_min is None else whole_number(k_min, "k_min", 1, info.num_experts)
    high = min(DEFAULT_K_MAX, info.num_experts) if k_max is None else whole_number(k_max, "k_max", 1, info.num_experts)
    if low > high:
        raise ValueError(f"k_min ({low}) must not be larger than k_max ({high}); swap them.")
    return low, high


def _system(prompt: Any, settings: Settings) -> list[Message]:
    if prompt is None or prompt == "":
        return []
    if not isinstance(prompt, str):
        raise ValueError(f"The system prompt must be text; got {type(prompt).__name__}.")
    if len(prompt) > settings.max_message_chars:
        raise ValueError(f"The system prompt has {len(prompt):,} characters; "
                         f"at most {settings.max_message_chars:,} are accepted.")
    return [Message("system", well_formed(prompt))] if prompt.strip() else []
