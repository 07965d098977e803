"""Loose fields become one checked request, or a sentence that says what to do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from olmoe_space.ask import choice_from_fields, given_seed, request_from_fields, setting_fields
from olmoe_space.request import Message, RoutingPolicy, SamplingParams
from olmoe_space.rules import PARAMETERS, TokenRule
from olmoe_space.settings import Settings

from .scripted import INFO

SETTINGS = Settings()


def ask(message: Any = "Why is the sky blue?", history: Any = None, **fields: Any) -> Any:
    return request_from_fields(message, history, info=INFO, settings=SETTINGS, **fields)


def test_a_message_alone_is_enough() -> None:
    question = ask()
    assert question.choice is None
    assert question.request.messages == (Message("user", "Why is the sky blue?"),)
    assert question.request.sampling == SamplingParams()
    assert question.request.routing == RoutingPolicy(num_experts_per_tok=INFO.default_k)


def test_history_and_system_prompt_come_before_the_message() -> None:
    history = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": [{"type": "text", "text": "Ho"}]}]
    messages = ask("And?", history, system_prompt="Be brief.").request.messages
    assert [(m.role, m.content) for m in messages] == [
        ("system", "Be brief."), ("user", "Hi"), ("assistant", "Ho"), ("user", "And?")]
    assert len(ask(system_prompt="  \n").request.messages) == 1


def test_adaptive_mode_settles_k_and_keeps_the_reasons() -> None:
    question = ask("Prove that every eigenvalue of a unitary matrix has modulus one.", mode="adaptive",
                   k_min=5, k_max=20)
    assert question.choice is not None
    assert question.request.routing.num_experts_per_tok == question.choice.k
    assert 5 < question.choice.k <= 20
    assert question.choice == choice_from_fields(question.request.prompt, 5, 20, info=INFO, settings=SETTINGS)


def test_per_token_mode_has_a_rule_with_its_usual_parameter() -> None:
    assert ask(mode="per-token").request.routing == RoutingPolicy(rule=TokenRule("top-p", 0.4))
    routing = ask(mode="per-token", rule="entropy", parameter="0.7", k_min=2, k_max="9").request.routing
    assert routing == RoutingPolicy(k_min=2, k_max=9, rule=TokenRule("entropy", 0.7))
    assert routing.num_experts_per_tok == 9 and not routing.is_plain
    usual = {name: ask(mode="per-token", rule=name).request.routing.rule.parameter for name in PARAMETERS}
    assert usual == {"top-p": 0.4, "relative-skip": 0.3, "entropy": 0.8, "layer-budget": 96, "random": 8}
    assert ask(mode="per-token", rule="layer-budget", k_min=7).request.routing.rule.parameter == 7 * INFO.num_layers


@pytest.mark.parametrize("typed, expected", [
    ("16", RoutingPolicy(16)), ("top-p:0.5", RoutingPolicy(rule=TokenRule("top-p", 0.5))),
    ("random: 4", RoutingPolicy(rule=TokenRule("random", 4)))])
def test_a_setting_in_one_field(typed: str, expected: RoutingPolicy) -> None:
    assert ask(**setting_fields(typed)).request.routing == expected


def test_defaults_fit_a_model_of_few_experts() -> None:
    few = replace(INFO, num_experts=11, default_k=3)
    question = request_from_fields("Hello", info=few, settings=SETTINGS, mode="adaptive")
    assert question.request.routing.k_max == 11


@pytest.mark.parametrize("value", [None, "", "  ", -1, "-1", -1.0])
def test_no_seed_is_a_fresh_one(value: Any) -> None:
    assert given_seed(value) is None


@pytest.mark.parametrize("value, seed", [(0, 0), ("42", 42), (7.0, 7), (" 9 ", 9), ("9223372036854775807", 2**63 - 1)])
def test_a_seed_as_typed(value: Any, seed: int) -> None:
    assert given_seed(value) == seed


def test_numbers_may_come_as_text_or_floats() -> None:
    request = ask(num_experts_per_tok="16", max_new_tokens=10.0, temperature="0", top_p="1").request
    assert request.routing.num_experts_per_tok == 16
    assert request.sampling == SamplingParams(temperature=0, top_p=1, max_new_tokens=10)


@pytest.mark.parametrize("fields, words", [
    ({"message": ""}, "empty"),
    ({"message": " \n\t"}, "empty"),
    ({"message": "\u200b\u2060\u3164"}, "invisible"),
    ({"message": "x" * 1_000_000}, "1,000,000 characters; at most 32,000"),
    ({"message": 5}, "must be text"),
    ({"message": None}, "must be text"),
    ({"num_experts_per_tok": 0}, "from 1 to 64; got 0"),
    ({"num_experts_per_tok": 65}, "from 1 to 64; got 65"),
    ({"num_experts_per_tok": 3.5}, "whole number"),
    ({"num_experts_per_tok": "many"}, "whole number"),
    ({"num_experts_per_tok": float("nan")}, "whole number"),
    ({"num_experts_per_tok": True}, "whole number"),
    ({"k_min": 9, "k_max": 3}, "swap"),
    ({"k_min": 9, "k_max": 3, "mode": "adaptive"}, "swap"),
    ({"k_max": 65, "mode": "adaptive"}, "k_max must be a whole number from 1 to 64"),
    ({"mode": "clever"}, "fixed, adaptive or per-token"),
    ({"mode": None}, "fixed, adaptive or per-token"),
    ({"mode": ["fixed"]}, "fixed, adaptive or per-token"),
    ({"mode": "per-token", "rule": "clever"}, "rule must be one of top-p, relative-skip"),
    ({"mode": "per-token", "rule": "top-p", "parameter": 0}, "P of top-p must be a number above 0"),
    ({"mode": "per-token", "rule": "relative-skip", "parameter": "lots"}, "from 0 to 1"),
    ({"mode": "per-token", "rule": "entropy", "parameter": 1.5}, "from 0 to 1"),
    ({"mode": "per-token", "rule": "random", "parameter": 2.5}, "whole number"),
    ({"mode": "per-token", "rule": "layer-budget", "parameter": 63}, "from 64 to 256; got 63"),
    ({"mode": "per-token", "rule": "top-p", "k_min": 9, "k_max": 3}, "swap"),
    ({"weighting": "heavy"}, "raw, renormalised, mass_preserving"),
    ({"temperature": -0.1}, "at least 0"),
    ({"temperature": float("nan")}, "at least 0"),
    ({"top_p": 0}, "above 0"),
    ({"top_p": 1.01}, "at most 1"),
    ({"max_new_tokens": 0}, "from 1 to 1024; got 0"),
    ({"max_new_tokens": 1025}, "from 1 to 1024; got 1025"),
    ({"seed": -2}, "Seed"),
    ({"seed": "lucky"}, "Seed"),
    ({"system_prompt": 5}, "system prompt must be text"),
    ({"system_prompt": "x" * 40_000}, "40,000 characters"),
    ({"history": "hello"}, "history must be a list"),
    ({"history": [["hi", "ho"]]}, "History entry 1"),
    ({"history": [{"role": "wizard", "content": "hi"}]}, "History entry 1"),
    ({"history": [{"role": "user", "content": "hi"}] * 3_000}, "3,000 messages"),
])
def test_what_cannot_be_answered_is_refused_in_words(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ask(**fields)


def test_odd_text_passes_as_text() -> None:
    odd = "\ud83d NUL \x00 right-to-left \u202e <script> {{7*7}} ${alert(1)}"
    assert ask(odd).request.prompt == odd.replace("\ud83d", "\ufffd")
    assert ask("Hi", system_prompt="\ud83d").request.messages[0].content == "\ufffd"
