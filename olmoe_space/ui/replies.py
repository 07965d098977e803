"""Under each reply of the chat: its quiet line, and buttons that open that reply in another tab or show its map.

A tab says with `opens` what it does with a reply that is brought to it. Which reply is meant travels as its turn's
id; the turn itself is in the visitor's own state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from .assets import read
from .chat_history import Chat, notes
from .messenger import messenger
from .turn import Turn

MAP = "map"
GONE = "This reply’s routing is no longer kept. Ask again to have it anew."
Updates = dict[Any, Any]


class Replies:
    """The component that puts the lines and buttons there, and what they do.

    turn_state: the visitor's latest turn. error: where it is said that a reply is no longer kept. show: (the chosen
    turn, the latest) -> updates of `shown`, which are drawn of the chosen reply. routed: whether there is a map of
    them.
    """

    def __init__(self, turn_state: gr.State, error: gr.HTML, tabs: gr.Tabs, show: Callable[[Turn, Turn], Updates],
                 shown: Sequence[Any], routed: bool = True) -> None:
        self._turn_state, self._error, self._tabs, self._show, self._shown = turn_state, error, tabs, show, shown
        self._labels: dict[str, str] = {}
        self.view = gr.HTML(self.value([], None), html_template="", elem_id="reply-notes", container=False,
                            padding=False, js_on_load=read("chat_text.js") + read("reply_notes.js"))
        self._events = gr.Row(elem_classes=["no-space"])
        if routed:
            self.opens(MAP, "Map", lambda turn: {}, [], [])

    def value(self, chat: Chat, turn: Turn | None) -> dict[str, Any]:
        """What is to stand under the chat's replies."""
        kept = {t.id for t in turn.kept()} if turn is not None else set()
        writing = turn.id if turn is not None and turn.state != "done" else ""
        return {"opens": list(self._labels.items()),
                "replies": [{"line": note.line, "turn": note.turn, "kept": note.turn in kept,
                             "gone": bool(self._labels) and note.turn not in kept | {writing, ""}}
                            for note in notes(chat)]}

    def opens(self, tab: str, label: str, open_here: Callable[..., Updates], inputs: Sequence[Component],
              outputs: Sequence[Any]) -> None:
        """A button under every reply. tab: the id of the tab that is shown. open_here: (turn, *values of inputs) ->
        updates of outputs."""
        self._labels[tab] = label
        with self._events:
            asked = messenger("open-reply", tab)

        def opened(which: gr.EventData, turn: Turn | None, *values: Any) -> Updates:
            found = turn.choose(which._data) if turn is not None else None
            if turn is None or found is None:
                return {self._error: GONE}
            shown = {} if tab == MAP else {self._tabs: gr.Tabs(selected=tab)}
            return {self._error: "", **self._show(found, turn), **shown, **open_here(found, *values)}

        asked.submit(opened, [self._turn_state, *inputs], [self._error, self._tabs, *self._shown, *outputs],
                     queue=False, api_visibility="private", show_progress="hidden")
