"""What is counted and logged of requests: how they went, never their text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from olmoe_space.request import GenerationRequest, Message, RoutingPolicy, SamplingParams
from olmoe_space.traffic import Traffic

from .scripted import ScriptedModel


def request(text: str, tokens: int = 50) -> GenerationRequest:
    return GenerationRequest((Message("user", text),), SamplingParams(0, 1, tokens, 3), RoutingPolicy(16))


def events(text: str, tokens: int = 50) -> Iterator[Any]:
    return ScriptedModel(s_per_token=0).stream(request(text, tokens))


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level("INFO", "olmoe_space.requests")
    return lambda: [json.loads(r.getMessage()) for r in caplog.records if r.name == "olmoe_space.requests"]


def test_a_reply_is_told_by_its_numbers_alone(logged: Any, caplog: pytest.LogCaptureFixture) -> None:
    traffic = Traffic()
    assert list(traffic.watched("chat", events("a secret word")))[-1].finish_reason == "stop"
    [line] = logged()
    assert line["id"] == 1 and line["job"] == "chat" and line["outcome"] == "stop"
    assert (line["k"], line["weighting"], line["prompt_tokens"]) == (16, "raw", 3)
    assert line["new_tokens"] == 6 and line["ttft_s"] == 0.15 and line["seconds"] >= 0
    assert "secret" not in caplog.text


def test_every_ending_has_its_name(logged: Any) -> None:
    traffic = Traffic()
    list(traffic.watched("chat", events("a secret word", 2)))
    left = traffic.watched("chat", events("long"))
    next(left)
    assert traffic.counts()["running"] == 1
    left.close()
    for text, error in (("refuse me", ValueError), ("break it", RuntimeError)):
        with pytest.raises(error):
            list(traffic.watched("chat", events(text)))
    list(traffic.watched("survey", iter([1, 2])))
    assert [line["outcome"] for line in logged()] == ["length", "left", "refused", "failed", "done"]
    assert [line["id"] for line in logged()] == [1, 2, 3, 4, 5] and logged()[3]["error"] == "RuntimeError"
    counts = traffic.counts()
    assert counts["running"] == 0 and sum(counts["ended"].values()) == 5 and counts["uptime_s"] >= 0


def test_who_leaves_ends_the_computation() -> None:
    model = ScriptedModel(s_per_token=0)
    stream = Traffic().watched("chat", model.stream(request("long")))
    next(stream)
    assert model.running == 1
    stream.close()
    assert model.running == 0
