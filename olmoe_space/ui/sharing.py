"""Link, Save and Open: a view of a tab as a link or a file, and back.

A tab says with `offers` which fields make its view and how they are checked: as if they had been typed. What is wrong
is said in words and changes nothing. Text reaches the page as the values of fields and through textContent alone.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from .assets import read
from .downloads import private_file
from .messenger import messenger
from .plain_text import plain_text
from .views import MAX_CHARS, View, filled, view_from

Updates = dict[Any, Any]
Fields = dict[str, Any]
_PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
OPENED = "The view is open: every field as it was."
NOTHING_HERE = "This tab has no settings to link to. Link and Save work in the others."


class Sharing:
    def __init__(self) -> None:
        self._said = plain_text("share-said", "status")
        with gr.Row(elem_id="share"):
            self._buttons = [gr.Button(label, size="sm", scale=0, min_width=56, elem_id=f"share-{label.lower()}")
                             for label in ("Link", "Save")]
            self._file = gr.UploadButton("Open", size="sm", scale=0, min_width=56, elem_id="share-open",
                                         file_types=[".json"], type="filepath")
        self._link = gr.HTML("", html_template="", js_on_load=read("share_link.js"), container=False, padding=False,
                             elem_classes=["no-space"])
        self._made = gr.File(visible="hidden", elem_id="share-file")
        self._messengers = gr.Row(elem_classes=["no-space"])
        self._offered: list[str] = []

    def of(self, tabs: gr.Tabs) -> None:
        """The tabs that an opened view may select."""
        self._tabs = tabs

    def offers(self, tab: str, fields: dict[str, Component], check: Callable[[Fields], Any],
               now: Callable[..., Fields] | None = None, also: Sequence[Component] = ()) -> None:
        """fields: by name, the components that are the view. check: raises ValueError for fields that cannot be.
        now: (fields, *values of `also`) -> the fields as they make the same again: a seed that was drawn, say."""
        names, components = list(fields), list(fields.values())

        def present(values: Sequence[Any]) -> Fields:
            return dict(zip(names, values, strict=False))

        def shown(view: View, here: Fields) -> Updates:
            check(filled(view, here))
            return {fields[name]: value for name, value in view.fields.items()}

        def view_of(*values: Any) -> View:
            here = present(values)
            return View(tab, now(here, *values[len(names):]) if now else here)

        self.offers_view(tab, view_of, [*components, *also],
                         lambda view, *values: shown(view, present(values)), components)

    def offers_view(self, tab: str, view_of: Callable[..., View], inputs: Sequence[Component],
                    show: Callable[..., Updates], outputs: Sequence[Any]) -> None:
        """view_of: (*values of inputs) -> the tab's view. show: (view, *values of inputs) -> updates of outputs, or
        ValueError."""
        self._offered.append(tab)
        with self._messengers:
            opens, links, saves = (messenger(hears, tab) for hears in ("open-view", "share-Link", "share-Save"))

        def opened(text: gr.EventData, *values: Any) -> Updates:
            try:
                return {self._said: OPENED, **show(view_from(text._data), *values), self._tabs: gr.Tabs(selected=tab)}
            except ValueError as refused:
                return {self._said: str(refused)}

        def linked(*values: Any) -> Updates:
            text = view_of(*values).to_text()
            if len(text) > MAX_CHARS:
                return {self._said: f"This view is longer than the {MAX_CHARS:,} characters that a link may have."}
            return {self._link: _news(view=text)}

        def saved(*values: Any) -> str:
            name = f"olmoe-{tab.removesuffix('-tab')}.json"
            return private_file(self._made, name, view_of(*values).to_text().encode())

        opens.submit(opened, list(inputs), [self._said, self._tabs, *outputs], **_PRIVATE)
        links.submit(linked, list(inputs), [self._said, self._link], **_PRIVATE)
        saves.submit(saved, list(inputs), self._made, **_PRIVATE).success(None, self._made, js=read("download.js"),
                                                                          **_PRIVATE)

    def wire(self) -> None:
        """When every tab has made its offer."""
        self._link.props["tabs"] = self._offered
        for button in self._buttons:
            button.click(None, None, None, js=f"() => document.dispatchEvent(new CustomEvent('share', "
                         f"{{ detail: '{button.value}' }}))", **_PRIVATE)

        def asked(text: gr.EventData) -> Updates:
            return self._route(text._data)

        self._link.submit(asked, None, [self._said, self._link], **_PRIVATE)
        self._file.upload(lambda path: self._route(_text_of(path)), self._file, [self._said, self._link], **_PRIVATE)

    def _route(self, text: Any) -> Updates:
        """A view from a link or a file: to its tab, or why it cannot be opened. None: a button where there is none."""
        if text is None:
            return {self._said: NOTHING_HERE}
        try:
            view = view_from(text)
            if view.tab not in self._offered:
                raise ValueError("The view is of a tab that this page does not have.")
        except ValueError as refused:
            return {self._said: str(refused)}
        return {self._link: _news(open=text, tab=view.tab)}


def _news(**value: str) -> str:
    # id: the same again is news too. "<" is escaped because gr.HTML warns of values that hold a script tag.
    return json.dumps(value | {"id": uuid.uuid4().hex}, ensure_ascii=True).replace("<", "\\u003c")


def _text_of(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            return file.read(4 * MAX_CHARS).decode("utf-8")
    except UnicodeDecodeError:
        return ""
