"""Earlier replies: how many are kept, what is said of the others, and that a chosen one is what is shown."""

from __future__ import annotations

import base64
import json
from typing import Any

import gradio as gr
import numpy as np
import pytest

from olmoe_space.ask import request_from_fields
from olmoe_space.settings import Settings
from olmoe_space.ui.chat_history import Chat, message, text_of
from olmoe_space.ui.downloads import _trace
from olmoe_space.ui.plain_text import plain_text
from olmoe_space.ui.replies import Replies
from olmoe_space.ui.turn import KEPT, Turn

from .scripted import INFO, ScriptedModel


def turn(text: str, former: Turn | None, **fields: Any) -> Turn:
    before: Chat = former.shown() if former else []
    question = request_from_fields(text, info=INFO, settings=Settings(), **fields)
    made = Turn(question, [*before, message("user", text)], before, text, INFO, former, 1000.0)
    list(made.run(ScriptedModel(s_per_token=0).stream))
    return made


def chat_of(*texts: str) -> list[Turn]:
    turns: list[Turn] = []
    for text in texts:
        turns.append(turn(text, turns[-1] if turns else None))
    return turns


@pytest.fixture
def replies() -> Replies:
    with gr.Blocks(analytics_enabled=False):
        made = Replies(gr.State(None), plain_text("error", "alert"), gr.Tabs(), lambda chosen, latest: {}, [])
        made.opens("compare-tab", "Compare", lambda turn: {}, [], [])
    return made


def test_the_last_replies_can_be_opened_and_older_ones_say_so(replies: Replies) -> None:
    turns = chat_of(*(f"Question {i}" for i in range(KEPT + 3)))
    last = turns[-1]
    assert last.kept() == turns[-KEPT - 1:]
    assert all(not former._earlier for former in turns[:-1])  # nothing holds on to the older ones
    value = replies.value(last.shown(), last)
    assert [label for _, label in value["opens"]] == ["Map", "Compare"]
    assert [r["kept"] for r in value["replies"]] == [False] * 2 + [True] * (KEPT + 1)
    assert [r["gone"] for r in value["replies"]] == [True] * 2 + [False] * (KEPT + 1)
    assert [r["turn"] for r in value["replies"]] == [t.id for t in turns]


def test_a_reply_that_is_being_written_is_neither_kept_nor_gone(replies: Replies) -> None:
    [first] = chat_of("One")
    question = request_from_fields("Two", info=INFO, settings=Settings())
    second = Turn(question, [*first.shown(), message("user", "Two")], first.shown(), "Two", INFO, first, 1000.0)
    frames = second.run(ScriptedModel(s_per_token=0).stream)
    while not second.has_reply:
        next(frames)
    states = [(r["kept"], r["gone"]) for r in replies.value(second.shown(), second)["replies"]]
    assert states == [(True, False), (False, False)]


def test_a_silent_or_refused_turn_loses_no_reply(replies: Replies) -> None:
    [first] = chat_of("One")
    refused = turn("refuse", first)
    assert refused.kept() == [first] and turn("Three", refused).kept()[0] is first
    silent = turn("silent", first)
    shown = replies.value(silent.shown(), silent)["replies"]
    assert (shown[-1]["kept"], shown[-1]["gone"]) == (False, False)


def test_figures_and_files_are_of_the_chosen_reply() -> None:
    first, second = chat_of("One", "A longer second question")
    assert _trace(second) is not _trace(first) and second.chosen is second
    assert second.choose(first.id) is first
    assert np.array_equal(_trace(second).token_ids, first.recorder.trace().token_ids)
    assert second.choose("no such turn") is None and second.choose(["odd"]) is None and second.chosen is first


def test_the_map_of_an_earlier_reply_stands_in_the_whole_chat() -> None:
    first, second = chat_of("One", "A longer second question")
    frame, latest = json.loads(first.frame(second)), json.loads(second.frame(second))
    assert frame["complete"] and "".join(frame["reply"]["texts"]) == text_of(first.shown()[-1])

    def counts(coded: dict[str, Any]) -> np.ndarray:
        return np.frombuffer(base64.b64decode(coded["counts"]), "<u2").astype(int)

    for phase in ("prefill", "decode"):
        assert np.array_equal(counts(frame["chat"][phase]) + counts(frame[phase]),
                              counts(latest["chat"][phase]) + counts(latest[phase]))
