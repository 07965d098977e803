"""The parts of the chat that need no browser: what is kept, shown, said to the model and handed out."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gradio as gr
import numpy as np
import pytest

from olmoe_space.ask import Question, request_from_fields
from olmoe_space.events import Event
from olmoe_space.request import GenerationRequest
from olmoe_space.settings import Settings
from olmoe_space.trace import load_npz
from olmoe_space.ui.assets import FOLDER
from olmoe_space.ui.chat_history import as_said, as_shown, last_question, message, notes, said, text_of
from olmoe_space.ui.downloads import KINDS, file_of
from olmoe_space.ui.how_it_works import how_it_works
from olmoe_space.ui.live_view import EMPTY
from olmoe_space.ui.markup import as_html, count
from olmoe_space.ui.page import badge, build_page, launch_options
from olmoe_space.ui.turn import Turn, decimals

from .scripted import HOSTILE, INFO, ScriptedModel

SETTINGS = Settings()


def question(text: str, **fields: Any) -> Question:
    return request_from_fields(text, info=INFO, settings=SETTINGS, **fields)


def turn(text: str, **fields: Any) -> Turn:
    before = [message("user", "Hi"), message("assistant", "Ho")]
    return Turn(question(text, **fields), [*before, message("user", text)], before, text, INFO, None, 1000.0)


# The chatbot's value -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("text", [HOSTILE, "a < b && c<d", "R&D, AT&T, &lt; &amp;amp; &#60; &", "", "<", "&", "</",
                                  "  indented\n\n", "&lt", "<\u202eb>", "&amp;lt;"])
def test_what_is_shown_can_be_read_back(text: str) -> None:
    assert as_said(as_shown(text)) == text
    assert text_of(message("user", text)) == text


@pytest.mark.parametrize("text", [HOSTILE, "<b", "</p", "<!--", "<?x", "<svg/onload=alert(1)>", "<<img src=x>"])
def test_nothing_shown_can_begin_a_tag_or_a_reference(text: str) -> None:
    shown = as_shown(text)
    assert not re.search(r"<[a-zA-Z/!?]", shown)
    assert not re.search(r"&(?!amp;|lt;)[a-zA-Z#]", shown)


def test_ordinary_text_is_left_alone() -> None:
    text = "if a < b and c & d: 3 <= 4, x = y & z"
    assert as_shown(text) == text


def test_the_quiet_line_is_never_said_to_the_model() -> None:
    chat = [message("user", "Hi"), message("assistant", "Ho <b>", "k 8 · 41 tok/s"), message("user", "And?")]
    assert said(chat) == [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho <b>"},
                          {"role": "user", "content": "And?"}]
    assert [note.line for note in notes(chat)] == ["k 8 · 41 tok/s"]


def test_a_chat_survives_gradio() -> None:
    chat = [message("user", "  a\n  b"), message("assistant", HOSTILE, "k 8")]
    chatbot = gr.Chatbot()
    back = chatbot.preprocess(chatbot.postprocess(chat))
    assert said(back) == said(chat) and notes(back)[0].line == "k 8"


def test_notes_are_one_a_reply_as_rows_are() -> None:
    chat = [message("assistant", "Welcome"), message("assistant", "!", "b"), message("user", "Hi"),
            message("assistant", "Ho")]
    assert [note.line for note in notes(chat)] == ["b", ""]


def test_the_question_a_message_answers() -> None:
    chat = [message("user", "1"), message("assistant", "2"), message("user", "3"), message("assistant", "4")]
    assert [last_question(chat, i) for i in (0, 1, 2, 3, 99, None)] == [0, 0, 2, 2, 2, 2]
    assert last_question([]) is None and last_question([message("assistant", "x")]) is None


# A turn --------------------------------------------------------------------------------------------------------------

def test_a_turn_streams_and_ends_with_its_line() -> None:
    model, asked = ScriptedModel(s_per_token=0.002), turn("Hello there", num_experts_per_tok=16)
    frames = list(asked.run(model.stream))
    assert len(frames) > 2 and all(frames) and model.running == 0
    assert asked.text == "You said: Hello there"
    reply = asked.shown()[-1]
    assert text_of(reply) == asked.text
    assert re.fullmatch(r"k 16 · 50 tok/s · 0.1 s to first token · mass \.\d\d", notes(asked.shown())[-1].line)
    assert asked.summary().startswith("seed 7 · 2 prompt + ")
    trace = asked.trace()
    assert trace is not None and trace.text("decode") == asked.text


def test_frames_come_on_a_clock() -> None:
    model = ScriptedModel(s_per_token=0.005)
    asked = turn("long")
    asked._live._interval = 0.1
    asked_for = list(asked.run(model.stream))
    assert len(asked_for) < 30  # 200 tokens of 5 ms and more


def test_stop_ends_the_computation_at_the_next_token() -> None:
    model, asked = ScriptedModel(s_per_token=0), turn("long")
    for i, _ in enumerate(asked.run(model.stream)):
        if i == 5:
            asked.stop()
    assert asked.stopped and asked.has_reply and len(asked.text) < 100 and model.running == 0
    assert asked.note().endswith("· stopped")
    trace = asked.trace()
    assert trace is not None and trace.finish_reason is None


def test_a_page_that_is_closed_ends_the_computation() -> None:
    model, asked = ScriptedModel(s_per_token=0), turn("long")
    frames = asked.run(model.stream)
    next(frames), next(frames)
    assert model.running == 1
    frames.close()
    assert model.running == 0 and asked.state == "done"


def test_stopped_while_waiting_it_never_begins() -> None:
    model, asked = ScriptedModel(), turn("Hello")
    asked.stop()
    assert list(asked.run(model.stream)) == [] and model.asked == []


def test_a_refusal_before_the_first_token_leaves_no_reply() -> None:
    asked = turn("refuse")
    assert list(asked.run(ScriptedModel().stream)) == [EMPTY]
    assert "2,000 tokens" in asked.refusal and not asked.has_reply and asked.shown() == asked.chat


def test_a_refusal_keeps_its_words_as_gradio_error() -> None:
    def stream(request: GenerationRequest) -> Iterator[Event]:
        raise gr.Error("too long")
        yield

    asked = turn("Hello")
    list(asked.run(stream))
    assert asked.refusal == "too long"


def test_a_failure_in_the_middle_keeps_what_there_is() -> None:
    model, asked = ScriptedModel(s_per_token=0), turn("break")
    list(asked.run(model.stream))
    assert asked.text.startswith("It began well") and model.running == 0
    assert "RuntimeError: the device <b>went</b> away. Retry" in asked.note()
    assert asked.trace() is not None


def test_the_ways_to_end_and_notices_are_told() -> None:
    asked = turn("Please forget it", max_new_tokens=3)
    list(asked.run(ScriptedModel(s_per_token=0).stream))
    first, second = asked.note().split("\n")
    assert first.endswith("ended at max new tokens") and second == "The 2 oldest messages were left out."


def test_a_model_that_says_nothing_is_told() -> None:
    asked = turn("silent")
    list(asked.run(ScriptedModel().stream))
    assert text_of(asked.shown()[-1]) == "" and "ended the reply at once" in notes(asked.shown())[-1].line


def test_totals_add_up_over_a_chat() -> None:
    first, model = turn("One"), ScriptedModel(s_per_token=0)
    list(first.run(model.stream))
    second = Turn(question("Two"), [], [], "", INFO, first, 10.0)
    list(second.run(model.stream))
    ran = (len(first.recorder.trace().token_ids) + len(second.recorder.trace().token_ids))
    totals = second.totals()
    assert totals.prefill.tokens + totals.decode.tokens == ran


@pytest.mark.parametrize("value, shown", [(0.523, ".52"), (1.0, "1.00"), (0.0, ".00")])
def test_shares_are_short(value: float, shown: str) -> None:
    assert decimals(value) == shown


# Files and pages -----------------------------------------------------------------------------------------------------

def test_a_reply_can_be_had_in_every_kind() -> None:
    asked = turn("hostile")
    list(asked.run(ScriptedModel(s_per_token=0).stream))
    trace = asked.trace()
    assert trace is not None
    files = {kind: file_of(kind, trace, "<b>{{model}}</b>") for kind in KINDS}
    assert files["PNG"].startswith(b"\x89PNG") and b"<svg" in files["SVG"] and b"<b>" not in files["SVG"]
    assert np.array_equal(load_npz(files["NPZ"]).selected_experts, trace.selected_experts)
    assert io.BytesIO(files["JSON"]).read(1) == b"{"


def test_the_badge_says_what_is_loaded() -> None:
    assert badge(INFO) == "olmoe-tiny · 31.7M · float32 · CPU"


@pytest.mark.parametrize("number, shown", [(31_700_000, "31.7M"), (6_919_161_856, "6.92B"), (24_576, "24.6K"),
                                           (120_000_000, "120M"), (999, "999")])
def test_counts_as_people_say_them(number: int, shown: str) -> None:
    assert count(number) == shown


def test_text_in_templates_is_neither_markup_nor_code() -> None:
    safe = as_html(HOSTILE)
    assert not set("<>{}$") & set(safe)


def test_how_it_works_has_the_models_own_numbers() -> None:
    html = how_it_works(replace(INFO, name="<b>{{x}}", num_layers=3, num_experts=11, default_k=4, vocab_size=4242))
    assert "4,242" in html and "8 of 64" not in html and "4 of 11" in html
    assert "<b>{{" not in html and "@" not in html


def test_the_page_asks_no_other_host_for_fonts_or_scripts() -> None:
    options = launch_options(SETTINGS)
    assert not options["run_history"] and not options["ssr_mode"]
    theme = options["theme"]
    assert theme._stylesheets == [] and not re.search(r"url\(['\"]?http|@import", theme._get_theme_css())
    for file in ("page.css", "chat_text.js", "reply_notes.js", "plain_text.js", "marks.js", "download.js"):
        assert "http" not in (FOLDER / file).read_text()


def test_only_two_endpoints_are_public() -> None:
    page = build_page(INFO, ScriptedModel().stream, SETTINGS)
    public = {fn.api_name for fn in page.fns.values() if fn.api_visibility == "public"}
    assert public == {"generate", "choose_experts"}
    model_users = [fn for fn in page.fns.values() if fn.concurrency_id == "model"]
    assert len(model_users) == 2
    assert {fn.concurrency_limit for fn in model_users} == {SETTINGS.max_concurrent_chats}
