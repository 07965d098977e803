"""The tab Compare without a browser: what its fields ask for, what its views are handed, what Stop keeps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from olmoe_space.comparison import END, Difference, Speed
from olmoe_space.events import Event
from olmoe_space.request import GenerationRequest, Message
from olmoe_space.settings import Settings
from olmoe_space.truth import Score
from olmoe_space.ui.compare import Opened, questions_from_fields
from olmoe_space.ui.comparing import Comparison
from olmoe_space.ui.measuring import Measurement, Text

from .scripted import HOSTILE, INFO, ScriptedModel

SETTINGS = Settings()
SAMPLING = {"temperature": 0, "top_p": 1, "max_new_tokens": 64, "seed": "3"}
TEXT = Text("the reply at k=8", (1, 2), (3, 4), ("a", HOSTILE))


def asked(*pairs: tuple[Any, str], prompt: str = "Hello", opened: Opened | None = None, **sampling: Any) -> list[Any]:
    return questions_from_fields(prompt, opened, list(pairs), INFO, SETTINGS, **(SAMPLING | sampling))


class Jobs:
    """Scripted replies, a difference at their first parting, a speed each; `closed` counts ended computations."""

    def __init__(self) -> None:
        self.model, self.asked, self.closed = ScriptedModel(s_per_token=0), list[tuple[Any, ...]](), 0

    def __call__(self, name: str, *arguments: Any) -> Iterator[Any]:
        self.asked.append((name, *arguments))
        try:
            yield from getattr(self, name)(*arguments)
        finally:
            self.closed += 1

    def compare(self, requests: list[GenerationRequest]) -> Iterator[tuple[int, Event]]:
        for row, request in enumerate(requests):
            yield from ((row, event) for event in self.model.stream(request))

    def differences(self, prompt: list[int], replies: list[list[int]], policies: list[Any]) -> Iterator[Any]:
        yield Difference(1, (0, 1), np.array([5, 6]), ("x", HOSTILE), (False, False), np.array([[.7, .3], [.4, .6]]),
                         (0, 1), (((0,), (0,)), ((1, 1, 1), (1, 1))))
        yield Speed(8, 50.0)

    def truth_meter(self, prompt: Any, reply: Any, ks: list[int], weightings: Any) -> Iterator[Any]:
        for k in (8, *(k for k in ks if k != 8)):
            yield Score(k, "raw", np.array([1.0, 2.0]) + k / 100, np.array([0.0, 0.1]))
        yield from (Speed(k, 100.0 / k) for k in ks)


def comparison(*pairs: tuple[Any, str], **options: Any) -> Comparison:
    return Comparison(asked(*pairs, **options), INFO, 1e9)


def test_settings_become_requests_with_one_seed() -> None:
    questions = asked(("8", "raw"), ("off", "raw"), ("adaptive", "renormalised"), (64, "mass_preserving"), seed="")
    assert [q.request.routing.num_experts_per_tok for q in questions][::2] == [8, 64]
    assert 4 <= questions[1].request.routing.num_experts_per_tok <= 16 and questions[1].choice
    assert len({q.request.sampling.seed for q in questions}) == 1 and questions[0].request.sampling.seed is not None


@pytest.mark.parametrize(("pairs", "said"), [
    ([("65", "raw")], "from 1 to 64"), ([("many", "raw")], "many"), ([("off", "raw"), (None, "raw")], "off"),
    ([("8", "best")], "Weighting")])
def test_what_cannot_be_asked_is_said(pairs: list[tuple[Any, str]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        asked(*pairs)


def test_an_opened_reply_keeps_its_conversation_while_its_prompt_stands() -> None:
    messages = (Message("user", "One"), Message("assistant", "Two"), Message("user", "Hello"))
    opened = Opened(messages, "Hello", TEXT)
    assert asked(("8", "raw"), opened=opened)[0].request.messages == messages
    assert len(asked(("8", "raw"), opened=opened, prompt="Other")[0].request.messages) == 1


def test_a_comparison_gives_columns_then_differences_then_speed() -> None:
    jobs, compared = Jobs(), comparison(("8", "raw"), ("16", "renormalised"), prompt="hostile")
    views = list(compared.run(jobs))
    assert all(view.isascii() and "<" not in view for view in views)
    last = json.loads(views[-1])
    assert [c["name"] for c in last["columns"]] == ["k=8", "k=16 renormalised"]
    assert "".join(last["columns"][0]["texts"]) == HOSTILE and last["columns"][0]["alone"] == 50.0
    assert last["columns"][1]["active"] == INFO.active_params(16) and 0 < last["columns"][0]["mass"] < 1
    assert last["differences"][0]["taken"] == [0, 1] and last["doing"] == "" and compared.state == "done"
    name, prompt, replies, policies = jobs.asked[1]
    assert name == "differences" and replies[0][-1] == END and policies[1].weighting == "renormalised"
    assert jobs.closed == 2 and jobs.model.running == 0


def test_stop_ends_the_computation_and_keeps_what_there_is() -> None:
    jobs, compared = Jobs(), comparison(("8", "raw"), ("16", "raw"), prompt="long")
    jobs.model.s_per_token = 0.03
    frames = compared.run(jobs)
    while len(compared.columns[0].texts) < 5:
        next(frames)
    compared.stop()
    last = json.loads(list(frames)[-1])
    assert last["stopped"] and 5 <= len(last["columns"][0]["texts"]) < 100 and last["columns"][0]["ended"] == "stopped"
    assert jobs.model.running == 0 and jobs.closed >= 1


def test_a_refusal_reaches_the_visitor_in_words() -> None:
    compared = comparison(("8", "raw"), prompt="refuse")
    list(compared.run(Jobs()))
    assert "2,000 tokens" in compared.refusal and not compared.has_replies


def test_the_truth_meter_hands_out_numbers_verdict_and_figure() -> None:
    measured = Measurement(TEXT, INFO)
    views = list(measured.run(Jobs()))
    assert all(view.isascii() and "<" not in view for view in views)
    last = json.loads(views[-1])
    assert last["own"] == 8 and [s["k"] for s in last["settings"]] == [8, 1, 2, 4, 16, 32, 64]
    assert "k=16 costs +0.08 nats a token and is 2.0 × slower" in last["settings"][4]["verdict"]
    assert last["settings"][4]["rate"] == 6.25 and last["texts"][1] == HOSTILE
    for dark in (False, True):
        assert len(measured.figure(dark).axes) == 2


def test_a_stopped_measurement_keeps_its_scores() -> None:
    jobs, measured = Jobs(), Measurement(TEXT, INFO)
    frames = measured.run(jobs)
    next(frames), next(frames)
    measured.stop()
    last = json.loads(list(frames)[-1])
    assert last["stopped"] and 2 <= len(last["settings"]) <= 3 and jobs.closed == 1
    assert measured.figure() is not None
