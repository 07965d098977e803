"""The race's section of Compare: a text of the visitor's own, or a reply, under every routing policy.

What runs is a `Race` in the visitor's own state; putting a new one there, and nothing else, starts it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import gradio as gr

from ..model_info import ModelInfo
from ..request import visible_message
from ..settings import Settings
from .assets import read, script
from .chat import MODEL_QUEUE, UNREACHED
from .comparing import Comparison
from .downloads import private_file
from .measuring import Opened, texts_of
from .plain_text import plain_text
from .racing import KINDS, Race
from .run_and_stop import busy, halt
from .turn import Job

TYPED = "the text below"
START_TEXT = ("Once upon a time a fox with a bell on its tail came to a village. The children heard it first, and ran "
              "to the gate. \"Who tied that bell?\" asked the baker. Nobody knew, and the fox did not say.")
KEEP_S = 1800  # seconds a race is kept
HEAD = ('<div class="truth-head"><h2>Race of policies</h2><p>One text, fed to the model under every policy at several '
        "parameters, each with k between 1 and 32: the experts that worked on a token, and the nats it cost. Experts "
        "drawn at random run beside them as a control.</p></div>")
GONE = "There is nothing to download: the race is no longer kept."
_PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
_AT_ONCE: dict[str, Any] = {"queue": False, **_PRIVATE}
Updates = dict[Any, Any]


def race_section(info: ModelInfo, job: Job, settings: Settings, comparison: gr.State, opened: gr.State) -> gr.Dropdown:
    """Returns the choice of the text, whose choices are `race_choices`."""
    with gr.Column(elem_id="race"):
        gr.HTML(html_template=HEAD, container=False, padding=False)
        with gr.Row(elem_id="race-compose", equal_height=True):
            source = gr.Dropdown([TYPED], value=TYPED, label="Text", elem_id="race-source", scale=1, min_width=200)
            run = gr.Button("Race", variant="primary", elem_id="race-run", scale=0, min_width=96)
            stop = gr.Button("Stop", variant="stop", elem_id="race-stop", scale=0, min_width=96, visible=False)
        typed = gr.Textbox(START_TEXT, label="Text to race over", lines=2, max_lines=8, elem_id="race-text",
                           show_label=False, container=False)
        error = plain_text("race-error", "alert")
        with gr.Row(elem_id="race-result"):
            view = gr.HTML("", elem_id="race-view", html_template=read("compare/race.html"), apply_default_css=False,
                           js_on_load=script("elements.js", "compare/race.js"), container=False, padding=False,
                           min_width=320)
            plot = gr.Plot(show_label=False, container=False, elem_id="race-plot", visible=False, min_width=320)
        with gr.Row(elem_id="race-files", visible=False) as files:
            gr.HTML(html_template='<span class="downloads-label">Figure, numbers</span>', container=False,
                    padding=False, elem_classes=["shrink"])
            buttons = [(kind, gr.Button(kind, size="sm", elem_id=f"race-{kind.lower()}", scale=0, min_width=52))
                       for kind in KINDS]
    made = gr.File(visible="hidden", elem_id="race-file")
    is_dark = gr.Checkbox(visible=False)
    racing = gr.State(None, time_to_live=KEEP_S)

    def start(name: str | None, words: str, past: Comparison | None, brought: Opened | None,
              before: Race | None) -> Updates:
        if before is not None:
            before.stop()
        reply = next((t for t in texts_of(past, brought) if t.name == name), None)
        try:
            text = reply if reply is not None else visible_message(words, settings.max_message_chars)
        except ValueError as refused:
            return {error: str(refused)}
        return {error: "", racing: Race(text, info), plot: gr.update(visible=False), files: gr.update(visible=False),
                **busy(run, stop, True)}

    def compute(race: Race | None, dark: bool) -> Iterator[Updates]:
        if race is None or race.state != "waiting":
            yield {error: gr.skip()}
            return
        with closing(race.run(job)) as values:
            for value in values:
                yield {view: value}
        shown = bool(race.runs)
        yield {error: race.refusal, files: gr.update(visible=shown), **busy(run, stop, False),
               plot: gr.update(value=race.figure(dark) if shown else None, visible=shown)}

    def maker(kind: str) -> Any:
        def make(race: Race | None) -> str:
            if race is None or not race.runs:
                raise gr.Error(GONE, print_exception=False)
            return private_file(made, f"olmoe-race.{kind.lower()}", race.file(kind))

        return make

    source.change(lambda name: gr.update(visible=name == TYPED), source, typed, **_AT_ONCE)
    asked = run.click(start, [source, typed, comparison, opened, racing], [error, racing, plot, files, run, stop],
                      concurrency_limit=None, **_PRIVATE)
    computed = racing.change(
        compute, [racing, is_dark], [error, view, plot, files, run, stop],
        js="(racing) => [racing, document.body.classList.contains('dark')]",
        concurrency_id=MODEL_QUEUE, concurrency_limit=settings.max_concurrent_chats, **_PRIVATE)
    for event in (asked, computed):  # the queue was full, or the connection broke
        event.failure(lambda: {error: UNREACHED, **busy(run, stop, False)}, None, [error, run, stop], **_AT_ONCE)
    stop.click(lambda race: halt(race, run, stop), racing, [run, stop], **_AT_ONCE)
    for kind, button in buttons:
        button.click(maker(kind), racing, made, concurrency_id="figures", concurrency_limit=1,
                     **_PRIVATE).success(None, made, js=read("download.js"), **_AT_ONCE)
    return source


def race_choices(comparison: Comparison | None, opened: Opened | None, chosen: str | None = None) -> Any:
    """The texts that can be raced over now: what is typed, and every reply at hand; `chosen`, or what is typed."""
    return gr.update(choices=[TYPED, *(t.name for t in texts_of(comparison, opened))], value=chosen or TYPED)
