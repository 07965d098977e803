"""The tab Compare: one prompt under up to four settings, where the replies part, and the truth meter below.

What runs is a `Comparison` or a `Measurement` in the visitor's own state; putting a new one there, and nothing else,
starts it, and Stop sets its flag. Nothing here is shared between visitors.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import gradio as gr

from ..ask import Question, given_seed, request_from_fields, setting_fields
from ..model_info import ModelInfo
from ..request import ADAPTIVE
from ..rules import DEFAULTS, RANDOM
from ..settings import Settings
from .assets import read, script
from .chat import MODEL_QUEUE, UNREACHED
from .comparing import Comparison
from .controls import WEIGHTINGS
from .downloads import private_file
from .measuring import Measurement, Opened, Text, texts_of
from .plain_text import plain_text
from .race import race_choices, race_section
from .replies import Replies
from .run_and_stop import busy, halt
from .sharing import Sharing
from .turn import Job, Turn

START_KS = (8, 16, 32, 64)
OFF = "off"
START_PROMPT = "Tell me a story about a fox with a bell on its tail."
START_TOKENS = 64
KEEP_S = 1800  # seconds a comparison is kept: it holds the replies and their measurements
NO_REPLY = "There is no reply yet. Send a message first, or run a comparison."
HEAD = ('<div class="truth-head"><h2>Truth meter</h2><p>The same text, fed to the model at every k and weighting: '
        "what each token costs in nats (−ln of its probability), against the model’s own k.</p></div>")
_PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
_AT_ONCE: dict[str, Any] = {"queue": False, **_PRIVATE}
Updates = dict[Any, Any]


def opened_from(turn: Turn | None) -> Opened:
    """Raises gr.Error if the reply is not kept any more."""
    trace = turn.trace() if turn is not None else None
    if turn is None or trace is None or trace.num_tokens == trace.prompt_tokens:
        raise gr.Error(NO_REPLY, print_exception=False)
    at, ids = trace.prompt_tokens, tuple(trace.token_ids.tolist())
    request = turn.question.request
    text = Text(f"the chat's reply at k={trace.num_experts_per_tok}", ids[:at], ids[at:], trace.texts[at:])
    return Opened(request.messages, request.prompt, text)


def questions_from_fields(prompt: Any, opened: Opened | None, settings_of: list[tuple[Any, Any]], info: ModelInfo,
                          settings: Settings, **sampling: Any) -> list[Question]:
    """The prompt under each setting (k, "adaptive", a rule such as "top-p:0.4", or "off"; and weighting), with one
    seed. Raises ValueError."""
    seed = given_seed(sampling.pop("seed", None))
    seed = secrets.randbelow(2**32) if seed is None else seed
    questions = []
    for k, weighting in settings_of:
        name = str(k if k is not None else OFF).strip().lower()
        if name in ("", OFF):
            continue
        question = request_from_fields(prompt, info=info, settings=settings, weighting=weighting, seed=seed,
                                       **setting_fields(name), **sampling)
        if opened is not None and question.request.prompt == opened.prompt:
            question = replace(question, request=replace(question.request, messages=opened.messages))
        questions.append(question)
    if not questions:
        raise ValueError("Every setting is off. Choose a k for at least one of them.")
    return questions


def compare_tab(info: ModelInfo, job: Job, settings: Settings, replies: Replies, sharing: Sharing) -> None:
    """replies: the chat's, any of which can be opened here."""
    running, opened_state = gr.State(None, time_to_live=KEEP_S), gr.State(None, time_to_live=KEEP_S)
    with gr.Row(elem_id="compare-compose", equal_height=True):
        prompt = gr.Textbox(START_PROMPT, label="Prompt", elem_id="compare-prompt", lines=1, max_lines=6, scale=1)
        run = gr.Button("Run", variant="primary", elem_id="compare-run", scale=0, min_width=76)
        stop = gr.Button("Stop", variant="stop", elem_id="compare-stop", scale=0, min_width=76, visible=False)
    error = plain_text("compare-error", "alert")
    choices = _setting_fields(info)
    sampling = _sampling_fields(settings)
    view = comparison_view("columns", "compare-view")
    with gr.Column(elem_id="truth"):
        truth = _Truth(info, job, settings, running, opened_state)
    raced = race_section(info, job, settings, running, opened_state)

    def start(typed: str, opened: Opened | None, before: Comparison | None, *values: Any) -> Updates:
        if before is not None:
            before.stop()
        pairs = list(zip(values[:len(choices):2], values[1:len(choices):2], strict=True))
        fields = dict(zip(sampling, values[len(choices):], strict=True))
        try:
            questions = questions_from_fields(typed, opened, pairs, info, settings, **fields)
        except ValueError as refused:
            return {error: str(refused)}
        return {error: "", running: Comparison(questions, info, settings.live_updates_per_s), **busy(run, stop, True)}

    def compute(comparison: Comparison | None, opened: Opened | None) -> Iterator[Updates]:
        if comparison is None or comparison.state != "waiting":
            yield {error: gr.skip()}
            return
        with closing(comparison.run(job)) as values:
            for value in values:
                yield {view: value}
        yield {error: comparison.refusal, **busy(run, stop, False), **truth.choices(comparison, opened),
               raced: race_choices(comparison, opened)}

    everything = [error, running, run, stop, view, truth.source, raced]
    asked = gr.on([prompt.submit, run.click], start, [prompt, opened_state, running, *choices, *sampling.values()],
                  [error, running, run, stop], concurrency_limit=None, **_PRIVATE)
    computed = running.change(compute, [running, opened_state], [c for c in everything if c is not running],
                              concurrency_id=MODEL_QUEUE, concurrency_limit=settings.max_concurrent_chats, **_PRIVATE)
    for event in (asked, computed):  # the queue was full, or the connection broke
        event.failure(lambda: {error: UNREACHED, **busy(run, stop, False)}, None, [error, run, stop], **_AT_ONCE)
    stop.click(lambda comparison: halt(comparison, run, stop), running, [run, stop], **_AT_ONCE)

    def open_here(turn: Turn, comparison: Comparison | None) -> Updates:
        opened = opened_from(turn)
        drawn, started = turn.question.request.sampling, turn.recorder.started
        values = {"temperature": drawn.temperature, "top_p": drawn.top_p, "max_new_tokens": drawn.max_new_tokens,
                  "seed": str(started.seed) if started else ""}
        return {prompt: opened.prompt, opened_state: opened, error: "",
                **{sampling[name]: value for name, value in values.items()},
                **truth.choices(comparison, opened, opened.text.name),
                raced: race_choices(comparison, opened, opened.text.name)}

    _offer(sharing, info, settings, prompt, choices, sampling, running)
    replies.opens("compare-tab", "Compare", open_here, [running],
                  [prompt, opened_state, error, truth.source, raced, *sampling.values()])


def _offer(sharing: Sharing, info: ModelInfo, settings: Settings, prompt: gr.Textbox, choices: list[gr.Dropdown],
           sampling: dict[str, Any], running: gr.State) -> None:
    """The tab's view: prompt, settings and sampling, with the seed of what was run last if it was left to chance."""
    names = [f"{name}_{i + 1}" for i in range(len(START_KS)) for name in ("k", "weighting")]

    def check(fields: dict[str, Any]) -> None:
        pairs = [(fields[f"k_{i + 1}"], fields[f"weighting_{i + 1}"]) for i in range(len(START_KS))]
        drawn = {name: fields[name] for name in sampling}
        questions_from_fields(fields["prompt"], None, pairs, info, settings, **drawn)

    def now(fields: dict[str, Any], comparison: Comparison | None) -> dict[str, Any]:
        drawn = comparison is not None and given_seed(fields["seed"]) is None
        return fields | ({"seed": str(comparison.seed)} if comparison is not None and drawn else {})

    sharing.offers("compare-tab", {"prompt": prompt, **dict(zip(names, choices, strict=True)), **sampling}, check, now,
                   [running])


def _setting_fields(info: ModelInfo) -> list[gr.Dropdown]:
    """k and weighting of each setting in turn."""
    ks = list(dict.fromkeys(min(k, info.num_experts) for k in START_KS))
    offered = [OFF, ADAPTIVE, *(str(2**i) for i in range(7) if 2**i <= info.num_experts),
               *(f"{rule}:{parameter}" for rule, parameter in DEFAULTS.items()), f"{RANDOM}:{info.default_k}"]
    fields: list[gr.Dropdown] = []
    with gr.Row(elem_id="compare-settings"):
        for i in range(len(START_KS)):
            with gr.Row(elem_classes=["cmp-setting"]):
                k = gr.Dropdown(offered, value=str(ks[i]) if i < len(ks) else OFF, allow_custom_value=True,
                                label=f"Setting {i + 1}: k", min_width=90, elem_id=f"compare-k-{i + 1}")
                weighting = gr.Dropdown(WEIGHTINGS, value="raw", label="weights", min_width=110,
                                        elem_id=f"compare-weighting-{i + 1}")
            fields += [k, weighting]
    return fields


def _sampling_fields(settings: Settings) -> dict[str, Any]:
    with gr.Accordion("Sampling, the same for all", open=False, elem_id="compare-sampling"), gr.Row():
        return {
            "temperature": gr.Number(0, label="Temperature", info="0 is greedy", step=0.1, min_width=110),
            "top_p": gr.Number(1, label="Top-p", info="above 0, at most 1", step=0.05, min_width=110),
            "max_new_tokens": gr.Number(START_TOKENS, label="Max new tokens", min_width=110,
                                        info=f"at most {settings.max_new_tokens:,}", elem_id="compare-tokens"),
            "seed": gr.Textbox("0", label="Seed", info="blank: a fresh one", max_lines=1, min_width=110),
        }


class _Truth:
    """The truth meter's part of the tab."""

    def __init__(self, info: ModelInfo, job: Job, settings: Settings, comparison: gr.State, opened: gr.State) -> None:
        gr.HTML(html_template=HEAD, container=False, padding=False)
        with gr.Row(elem_id="truth-compose", equal_height=True):
            self.source = gr.Dropdown([], label="Text", elem_id="truth-source", scale=1, min_width=200)
            run = gr.Button("Measure", variant="primary", elem_id="truth-run", scale=0, min_width=96)
            stop = gr.Button("Stop", variant="stop", elem_id="truth-stop", scale=0, min_width=96, visible=False)
        error = plain_text("truth-error", "alert")
        view = comparison_view("truth", "truth-view")
        plot = gr.Plot(show_label=False, container=False, elem_id="truth-plot", visible=False)
        files, buttons, made = _files()
        is_dark = gr.Checkbox(visible=False)
        measuring = gr.State(None, time_to_live=KEEP_S)

        def start(name: str | None, past: Comparison | None, brought: Opened | None,
                  before: Measurement | None) -> Updates:
            if before is not None:
                before.stop()
            text = next((t for t in texts_of(past, brought) if t.name == name), None)
            if text is None:
                return {error: NO_REPLY}
            return {error: "", measuring: Measurement(text, info), plot: gr.update(visible=False),
                    files: gr.update(visible=False), **busy(run, stop, True)}

        def compute(measurement: Measurement | None, dark: bool) -> Iterator[Updates]:
            if measurement is None or measurement.state != "waiting":
                yield {error: gr.skip()}
                return
            with closing(measurement.run(job)) as values:
                for value in values:
                    yield {view: value}
            shown = bool(measurement.scores)
            yield {error: measurement.refusal, files: gr.update(visible=shown), **busy(run, stop, False),
                   plot: gr.update(value=measurement.figure(dark) if shown else None, visible=shown)}

        def leave(measurement: Measurement | None) -> Updates:
            if measurement is not None:
                measurement.stop()
            return busy(run, stop, False)

        asked = run.click(start, [self.source, comparison, opened, measuring],
                          [error, measuring, plot, files, run, stop], concurrency_limit=None, **_PRIVATE)
        computed = measuring.change(
            compute, [measuring, is_dark], [error, view, plot, files, run, stop],
            js="(measuring) => [measuring, document.body.classList.contains('dark')]",
            concurrency_id=MODEL_QUEUE, concurrency_limit=settings.max_concurrent_chats, **_PRIVATE)
        for event in (asked, computed):
            event.failure(lambda: {error: UNREACHED, **busy(run, stop, False)}, None, [error, run, stop], **_AT_ONCE)
        stop.click(leave, measuring, [run, stop], **_AT_ONCE)
        for kind, button in buttons:
            button.click(_maker(kind, made), measuring, made, concurrency_id="figures", concurrency_limit=1,
                         **_PRIVATE).success(None, made, js=read("download.js"), **_AT_ONCE)

    def choices(self, comparison: Comparison | None, opened: Opened | None, chosen: str | None = None) -> Updates:
        """The texts that can be measured now; `chosen`, or the comparison's first."""
        names = [text.name for text in texts_of(comparison, opened)]
        return {self.source: gr.update(choices=names, value=chosen or (names[0] if names else None))}


def _files() -> tuple[gr.Row, list[tuple[str, gr.Button]], gr.File]:
    with gr.Row(elem_id="truth-files", visible=False) as row:
        gr.HTML(html_template='<span class="downloads-label">Figure</span>', container=False, padding=False,
                elem_classes=["shrink"])
        buttons = [(kind, gr.Button(kind, size="sm", elem_id=f"truth-{kind.lower()}", scale=0, min_width=52))
                   for kind in ("PNG", "SVG")]
    return row, buttons, gr.File(visible="hidden", elem_id="truth-file")


def _maker(kind: str, made: gr.File) -> Any:
    def make(measurement: Measurement | None) -> str:
        if measurement is None or not measurement.scores:
            raise gr.Error("There is nothing to download: the measurement is no longer kept.", print_exception=False)
        from ..plots import to_png, to_svg  # matplotlib takes most of a second to come

        figure = measurement.figure()
        return private_file(made, f"olmoe-quality.{kind.lower()}",
                            to_png(figure) if kind == "PNG" else to_svg(figure))

    return make


def comparison_view(name: str, elem_id: str) -> gr.HTML:
    """A view drawn by its script from values that no template refers to; the style comes with the first."""
    style = f"<style>{read('compare/compare.css')}</style>" if name == "columns" else ""
    return gr.HTML("", elem_id=elem_id, html_template=read(f"compare/{name}.html"), head=style,
                   js_on_load=script("elements.js", f"compare/{name}.js"), apply_default_css=False,
                   container=False, padding=False)
