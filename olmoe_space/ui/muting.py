"""Mute or boost an expert: one prompt as the model is, with the expert's weight times a factor, and, as the control,
with the same factor on a random expert of the same layer and about the same load. Rows of one batch with one seed.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import gradio as gr
import numpy as np
from gradio.components import Component

from ..ask import Question, given_seed, request_from_fields
from ..model_info import ModelInfo
from ..request import whole_number
from ..rules import ExpertScale
from ..settings import Settings
from ..survey import equal_load
from .chat import MODEL_QUEUE, UNREACHED
from .compare import KEEP_S, START_PROMPT, START_TOKENS, comparison_view
from .comparing import Comparison
from .plain_text import plain_text
from .run_and_stop import busy, halt
from .studying import Studying
from .surveying import Surveying
from .turn import Job

NO_LOAD = "Which experts have an equal load is not known yet. Press Survey or Measure specialisation first."
HEAD = ('<div class="ex-head"><h2>Mute or boost an expert</h2><p>The same prompt and seed three times: as the model '
        "is, with the expert’s weight × the factor (0 mutes it), and with the factor on a random expert of the same "
        "layer and about the same load, as the control.</p></div>")
_PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
_AT_ONCE: dict[str, Any] = {"queue": False, **_PRIVATE}
Updates = dict[Any, Any]


def mute_part(info: ModelInfo, job: Job, settings: Settings, surveying: gr.State, studying: gr.State, layer: gr.Number,
              expert: gr.Number) -> dict[str, Component]:
    """layer, expert: the fields that the map sets. Returns all that is asked, by name."""
    running = gr.State(None, time_to_live=KEEP_S)
    with gr.Row(elem_id="mute-compose", equal_height=True):
        prompt = gr.Textbox(START_PROMPT, label="Prompt", elem_id="mute-prompt", lines=1, max_lines=6, min_width=260)
        run = gr.Button("Run", variant="primary", elem_id="mute-run", scale=0, min_width=76)
        stop = gr.Button("Stop", variant="stop", elem_id="mute-stop", scale=0, min_width=76, visible=False)
    error = plain_text("mute-error", "alert")
    with gr.Row(elem_id="mute-settings"):
        layer.render()
        expert.render()
        sampling = {
            "factor": gr.Slider(0, 4, value=0, step=0.25, label="Weight ×", buttons=[], elem_id="mute-factor",
                                min_width=220),
            "k": gr.Number(info.default_k, label="k", min_width=70, elem_id="mute-k"),
            "temperature": gr.Number(0, label="Temperature", step=0.1, min_width=90),
            "max_new_tokens": gr.Number(START_TOKENS, label="Max new tokens", min_width=110, elem_id="mute-tokens"),
            "seed": gr.Textbox("0", label="Seed", max_lines=1, min_width=80)}
    note = plain_text("mute-note", "status")
    view = comparison_view("columns", "mute-view")

    def start(before: Comparison | None, survey: Surveying | None, study: Studying | None, *values: Any) -> Updates:
        if before is not None:
            before.stop()
        try:
            load, of_what = load_of(survey, study)
            asked, told = muted(dict(zip(fields, values, strict=True)), load, info, settings)
        except ValueError as refused:
            return {error: str(refused)}
        return {error: "", note: f"{told} {of_what}.", running: asked, **busy(run, stop, True)}

    def compute(comparison: Comparison | None) -> Iterator[Updates]:
        if comparison is None or comparison.state != "waiting":
            yield {error: gr.skip()}
            return
        with closing(comparison.run(job)) as values:
            for value in values:
                yield {view: value}
        yield {error: comparison.refusal, **busy(run, stop, False)}

    fields: dict[str, Component] = {"prompt": prompt, "layer": layer, "expert": expert, **sampling}
    asked = gr.on([prompt.submit, run.click], start, [running, surveying, studying, *fields.values()],
                  [error, note, running, run, stop], concurrency_limit=None, **_PRIVATE)
    computed = running.change(compute, running, [error, view, run, stop], concurrency_id=MODEL_QUEUE,
                              concurrency_limit=settings.max_concurrent_chats, **_PRIVATE)
    for event in (asked, computed):
        event.failure(lambda: {error: UNREACHED, **busy(run, stop, False)}, None, [error, run, stop], **_AT_ONCE)
    stop.click(lambda comparison: halt(comparison, run, stop), running, [run, stop], **_AT_ONCE)
    return fields


def load_of(surveying: Surveying | None, studying: Studying | None) -> tuple[np.ndarray, str]:
    """int [L, E], tokens that each expert worked on, over the sample if it was read, else in the surveyed text; and in
    words of what.

    Raises ValueError if neither is there.
    """
    if studying is not None and studying.study is not None:
        return studying.study.counts, f"of the sample's {studying.study.tokens:,}"
    if surveying is not None and surveying.surveys:
        survey = surveying.surveys[0]
        return survey.counts, f"of the {len(survey.pieces):,} of {survey.name}"
    raise ValueError(NO_LOAD)


def request_and_scale(fields: dict[str, Any], info: ModelInfo, settings: Settings) -> tuple[Question, ExpertScale]:
    """The request as the model is, its seed drawn if none was given, and the factor that is asked for.

    fields: prompt, layer, expert, factor, k, temperature, max_new_tokens and seed as typed. Raises ValueError for what
    cannot be asked.
    """
    layer = whole_number(fields["layer"], "Layer", 0, info.num_layers - 1)
    expert = whole_number(fields["expert"], "Expert", 0, info.num_experts - 1)
    seed = given_seed(fields["seed"])
    question = request_from_fields(fields["prompt"], info=info, settings=settings, num_experts_per_tok=fields["k"],
                                   temperature=fields["temperature"], top_p=1,
                                   seed=secrets.randbelow(2**32) if seed is None else seed,
                                   max_new_tokens=fields["max_new_tokens"])
    return question, ExpertScale.checked(layer, expert, fields["factor"])


def muted(fields: dict[str, Any], load: np.ndarray, info: ModelInfo, settings: Settings) -> tuple[Comparison, str]:
    """The three requests, and the two loads in words. fields: see `request_and_scale`; load: int [L, E]."""
    question, scale = request_and_scale(fields, info, settings)
    layer, expert, routing = scale.layer, scale.expert, question.request.routing
    seed = question.request.sampling.seed
    assert seed is not None  # drawn if none was given
    control = equal_load(load[layer], expert, seed)
    scales = [scale, scale._replace(expert=control)]
    names = ["as it is", *(f"{what}expert {s.expert} × {s.factor:g}"
                           for what, s in zip(("", "control: "), scales, strict=True))]
    policies = [routing, *(replace(routing, expert_scales=(s,)) for s in scales)]
    comparison = Comparison([replace(question, request=replace(question.request, routing=p)) for p in policies], info,
                            settings.live_updates_per_s)
    for column, name in zip(comparison.columns, names, strict=True):
        column.name = name
    return comparison, (f"Layer {layer}: expert {expert} works on {load[layer, expert]:,} tokens, its control, expert "
                        f"{control}, on {load[layer, control]:,},")
