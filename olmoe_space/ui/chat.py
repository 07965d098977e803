"""The chat tab: the conversation and its settings on the left, the experts at work on the right.

Every way to ask (Send, Enter, an example, Retry, Edit) does the same: it checks the request, shows the
question, and puts a new `Turn` into the visitor's own state. That change, and nothing else, starts the
reply. What a visitor sets is read from the visitor's own page each time; nothing here is shared.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import gradio as gr

from ..ask import given_seed, request_from_fields
from ..model_info import ModelInfo
from ..settings import Settings
from .assets import read
from .chat_history import Chat, last_question, message, said, text_of
from .controls import controls
from .downloads import downloads
from .live_view import EMPTY, live_view
from .plain_text import plain_text
from .replies import Replies
from .sharing import Sharing
from .space import stand_in_card
from .turn import Stream, Turn

MODEL_QUEUE = "model"  # all listeners that use the model wait in one queue
KEEP_TURN_S = 1800     # a turn holds its trace in memory: megabytes for a long reply
EXAMPLES = (
    "Artificial intelligence is",
    "Explain quantum computing:",
    "Explain machine learning:",
    "Why is the sky blue?",
    "Write a Python function that checks whether a number is prime.",
    "Tell me a short story about a lost key.",
)
UNTOLD = ("The server behind this page does not tell which experts fired, so there is nothing to draw here. "
          "Compare, Inside a token, Experts and Benchmark need the model itself and are left out.")
UNREACHED = "Too many are waiting just now, or the connection broke. Nothing is lost: try again in a moment."
BUSY = "A reply is still being written. Wait for it, or stop it first."
Updates = dict[Any, Any]
_PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


def chat_tab(info: ModelInfo, stream: Stream, settings: Settings, tabs: gr.Tabs,
             sharing: Sharing) -> Replies:
    """The chat; returns its replies, for what other tabs can do with them."""
    with gr.Row(elem_id="columns", equal_height=False):
        with gr.Column(elem_id="conversation", min_width=320):
            if card := stand_in_card(info, settings):
                gr.HTML(html_template=card, elem_id="stand-in", container=False, padding=False)
            chatbot = gr.Chatbot(
                elem_id="chat", label="Conversation", show_label=False, render_markdown=False, latex_delimiters=[],
                buttons=["copy"], editable="user", feedback_options=None, layout="bubble", height=None,
                placeholder=_welcome(info), examples=[{"text": text} for text in EXAMPLES])
            error = plain_text("message-error", "alert")
            with gr.Row(elem_id="compose", equal_height=True):
                box = gr.Textbox(elem_id="message", label="Message", show_label=False, container=False, lines=1,
                                 max_lines=8, autofocus=True, scale=1, placeholder=f"Ask {info.name.split('/')[-1]}",
                                 html_attributes=gr.InputHTMLAttributes(enterkeyhint="send"))
                send = gr.Button("Send", variant="primary", elem_id="send", scale=0, min_width=76)
                stop = gr.Button("Stop", variant="stop", elem_id="stop", scale=0, min_width=76, visible=False)
            queue_place = gr.HTML(html_template='<p role="status"></p>', js_on_load=read("queue_place.js"),
                                  elem_id="queue-place", container=False, padding=False)
            settings_of = controls(info, settings)
        with gr.Column(elem_id="experts-at-work", min_width=320):
            live = live_view(info)
            if not info.tells_routing:
                plain_text("untold", "note", UNTOLD)
            turn_state = gr.State(None, time_to_live=KEEP_TURN_S)
            summary = plain_text("reply-summary", "status")
            files, figures = downloads(info, turn_state)

    def show(chosen: Turn, latest: Turn) -> Updates:
        return {live: chosen.frame(latest), summary: chosen.summary(), figures: gr.update(open=False)}

    replies = Replies(turn_state, error, tabs, show, [live, summary, figures], info.tells_routing)
    reply_notes = replies.view
    nothing: Updates = {error: gr.skip()}

    def ask(typed: str, asked: str, past: Chat, before: Chat, turn: Turn | None, values: tuple[Any, ...]) -> Updates:
        """A new turn for `asked` after `past`; or what is wrong with it, with everything left as it is."""
        if turn is not None and turn.state == "running":
            return {error: BUSY, chatbot: turn.shown()}
        try:
            question = request_from_fields(asked, said(past), info=info, settings=settings,
                                           **settings_of.fields(values))
        except ValueError as refused:
            return {error: str(refused), chatbot: before}
        if turn is not None:
            turn.stop()  # it may still wait in the queue
        chat = [*past, message("user", question.request.prompt)]
        new = Turn(question, chat, before, typed, info, turn, settings.live_updates_per_s)
        return {error: "", chatbot: chat, reply_notes: replies.value(chat, new), turn_state: new, **buttons(busy=True),
                **after_reply(shown=False)}

    def send_typed(typed: str, chat: Chat, turn: Turn | None, *values: Any) -> Updates:
        updates = ask(typed, typed, chat, chat, turn, values)
        return updates | {box: ""} if turn_state in updates else updates

    def send_example(example: gr.SelectData, chat: Chat, turn: Turn | None, *values: Any) -> Updates:
        return ask("", example.value["text"], chat, chat, turn, values)

    def retry(at: gr.RetryData, chat: Chat, turn: Turn | None, *values: Any) -> Updates:
        i = last_question(chat, _index(at.index))
        return nothing if i is None else ask("", text_of(chat[i]), chat[:i], chat, turn, values)

    def edit(at: gr.EditData, chat: Chat, turn: Turn | None, *values: Any) -> Updates:
        i = last_question(chat, _index(at.index))
        if i is None:
            return nothing
        new_text = str(at.value)  # the chatbot's own editor holds it as said, not as shown
        before = [*chat[:i], chat[i] | {"content": as_parts(at.previous_value)}, *chat[i + 1:]]
        updates = ask(new_text, new_text, chat[:i], before, turn, values)
        return updates if turn_state in updates else updates | {box: new_text}

    def undo(at: gr.UndoData, typed: str, chat: Chat, turn: Turn | None) -> Updates:
        i = last_question(chat, _index(at.index))
        if i is None:
            return nothing
        if turn is not None and turn.state == "running":
            return {error: BUSY}
        return {chatbot: chat[:i], reply_notes: replies.value(chat[:i], turn), box: typed or text_of(chat[i]),
                error: ""}

    def clear(turn: Turn | None) -> Updates:
        if turn is not None:
            turn.discard()
        return {chatbot: [], reply_notes: replies.value([], None), live: EMPTY, turn_state: None, error: "",
                summary: "", **buttons(busy=False), **after_reply(shown=False)}

    def stop_reply(turn: Turn | None) -> Updates:
        if turn is None or turn.state == "done":
            return buttons(busy=False)
        waiting = turn.state == "waiting"
        turn.stop()
        return given_back(turn) if waiting else {stop: gr.update(value="Stopping", interactive=False)}

    def reply(turn: Turn | None, typed: str) -> Iterator[Updates]:
        if turn is None or turn.state == "done":
            yield nothing
            return
        with closing(turn.run(stream)) as frames:
            for value in frames:
                if turn.discarded:  # said once more, because gradio repeats the last update when a stream ends
                    yield {chatbot: [], live: EMPTY, reply_notes: replies.value([], None)}
                    return
                yield {chatbot: turn.shown(), live: value, reply_notes: replies.value(turn.shown(), turn)}
        if turn.refusal or (turn.stopped and not turn.has_reply):
            yield given_back(turn, typed)
        else:
            yield {summary: turn.summary(), **buttons(busy=False), **after_reply(shown=turn.has_reply)}

    def unreached(turn: Turn | None, typed: str) -> Updates:
        """The reply could not even begin: the queue was full, or the connection broke."""
        if turn is None or turn.state != "waiting":
            return buttons(busy=False)
        turn.stop()
        return given_back(turn, typed) | {error: UNREACHED}

    def given_back(turn: Turn, typed: str = "") -> Updates:
        """No reply: the conversation as it was, and what the visitor typed back in the box."""
        return {chatbot: turn.before, reply_notes: replies.value(turn.before, turn), error: turn.refusal,
                box: typed or turn.typed, **buttons(busy=False)}

    def buttons(busy: bool) -> Updates:
        return {send: gr.update(visible=not busy), stop: gr.update(visible=busy, value="Stop", interactive=True)}

    def after_reply(shown: bool) -> Updates:
        shown = shown and info.tells_routing
        return {files: gr.update(visible=shown), figures: gr.update(visible=shown, open=False)}

    asked = [chatbot, turn_state, *settings_of.components]
    everything = [box, chatbot, live, reply_notes, error, send, stop, turn_state, summary, files, figures]
    # What asks goes through the queue, for only there does gradio tell the page that a state has changed. The rest
    # does not: Stop has to work when the queue is full.
    asking: dict[str, Any] = {"concurrency_limit": None, **_PRIVATE}
    at_once: dict[str, Any] = {"queue": False, **_PRIVATE}
    for question_asked in (
        gr.on([box.submit, send.click], send_typed, [box, *asked], everything, **asking),
        chatbot.example_select(send_example, asked, everything, **asking),
        chatbot.retry(retry, asked, everything, **asking),
        chatbot.edit(edit, asked, everything, **asking),
    ):
        question_asked.failure(lambda: UNREACHED, None, error, **at_once)
    chatbot.undo(undo, [box, chatbot, turn_state], everything, **at_once)
    chatbot.clear(clear, turn_state, everything, **at_once)
    stop.click(stop_reply, turn_state, everything, **at_once)
    replied = turn_state.change(
        reply, [turn_state, box], [c for c in everything if c is not turn_state],
        concurrency_id=MODEL_QUEUE, concurrency_limit=settings.max_concurrent_chats,
        api_visibility="private", show_progress="minimal", show_progress_on=[queue_place])
    replied.failure(unreached, [turn_state, box], everything, **at_once)

    def check(fields: dict[str, Any]) -> None:
        """A message left empty is no fault: the link is then to the settings."""
        rest = settings_of.fields(tuple(fields[name] for name in vars(settings_of)))
        request_from_fields(fields["message"] or "Hello", info=info, settings=settings, **rest)

    def now(fields: dict[str, Any], chat: Chat, turn: Turn | None) -> dict[str, Any]:
        """What is typed, else what was asked last with the seed that it was answered with."""
        at = last_question(chat)
        if fields["message"] or at is None:
            return fields
        started = turn.recorder.started if turn is not None else None
        seed = str(started.seed) if started and given_seed(fields["seed"]) is None else fields["seed"]
        return fields | {"message": text_of(chat[at]), "seed": seed}

    sharing.offers("chat-tab", {"message": box, **vars(settings_of)}, check, now, [chatbot, turn_state])
    return replies


def _welcome(info: ModelInfo) -> str:
    watch = ", and watch them" if info.tells_routing else ""
    return (f"### Set how many of {info.num_experts} experts work on each token{watch}\n"
            "Ask something, or start with one of these:")


def _index(index: int | tuple[int, int] | list[int]) -> int:
    return index if isinstance(index, int) else index[0]



def as_parts(content: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content
