"""The tab Experts: the routers' work on a text, what the loaded model's experts are for, an expert's page, and the same
prompt with one of them muted or boosted.

What runs is a `Surveying`, a `Studying` or a `Comparison` in the visitor's own state; putting a new one there, and
nothing else, starts it. Nothing here is shared between visitors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import gradio as gr

from ..model_info import ModelInfo
from ..request import RoutingPolicy, whole_number
from ..settings import Settings
from .assets import read, script
from .chat import MODEL_QUEUE, UNREACHED
from .compare import KEEP_S, opened_from
from .comparing import as_value
from .expert_files import FIGURES, KINDS, maker
from .muting import HEAD as MUTE_HEAD
from .muting import mute_part, request_and_scale
from .plain_text import plain_text
from .replies import Replies
from .run_and_stop import busy, halt
from .sharing import Fields, Sharing
from .studying import Studying
from .surveying import Surveying, survey_of_reply, survey_of_texts
from .turn import Job, Turn

DOMAINS = ("code", "dialogue", "math", "programming", "science", "stories", "web")
START_TEXT = ("Why is the sky blue? Sunlight is made of many colours, and the air scatters the short waves of blue "
              "more than the long waves of red.")
STUDY_HEAD = ('<p class="ex-about">144 short texts of seven domains, read by the loaded '
              "model: which share of a domain’s tokens, of a place’s, of a kind of sentence’s each expert works on, "
              "and five claims about experts tested on it.</p>")
_PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
_AT_ONCE: dict[str, Any] = {"queue": False, **_PRIVATE}
_SCRIPTS = ("elements.js", "live_view/words.js", "live_view/scale.js", "live_view/heatmap.js", "experts/page.js",
            "experts/main.js")
Updates = dict[Any, Any]


def experts_tab(info: ModelInfo, job: Job, settings: Settings, replies: Replies, sharing: Sharing) -> None:
    """replies: the chat's, any of which can be opened here."""
    surveying, studying = gr.State(None, time_to_live=KEEP_S), gr.State(None, time_to_live=KEEP_S)
    with gr.Row(elem_id="survey-compose", equal_height=True):
        text = gr.Textbox(START_TEXT, label="Text", elem_id="survey-text", lines=2, max_lines=6, scale=3,
                          min_width=260)
        other = gr.Textbox("", label="Another to compare it with", placeholder="None", elem_id="survey-other", lines=2,
                           max_lines=6, scale=2, min_width=260)
        k = gr.Number(info.default_k, label="k", elem_id="survey-k", scale=0, min_width=70)
        survey_run = gr.Button("Survey", variant="primary", elem_id="survey-run", scale=0, min_width=90)
    survey_error = plain_text("survey-error", "alert")
    with gr.Row(elem_id="study-compose", equal_height=True):
        study_run = gr.Button("Measure specialisation", elem_id="study-run", scale=0, min_width=220)
        study_stop = gr.Button("Stop", variant="stop", elem_id="study-stop", scale=0, min_width=76, visible=False)
        gr.HTML(html_template=STUDY_HEAD, container=False, padding=False, min_width=280)
    study_error = plain_text("study-error", "alert")
    view = _view(info)
    layer, expert = (gr.Number(0, label=name, elem_id=f"mute-{name.lower()}", min_width=70, render=False)
                     for name in ("Layer", "Expert"))
    _files(info, surveying, studying, layer)
    with gr.Column(elem_id="mute"):
        gr.HTML(html_template=MUTE_HEAD, container=False, padding=False)
        mute_fields = mute_part(info, job, settings, surveying, studying, layer, expert)

    def asked_survey(typed: Any, second: Any, wanted_k: Any) -> Surveying:
        policy = RoutingPolicy(whole_number(wanted_k, "Active experts (k)", 1, info.num_experts))
        return survey_of_texts(typed, second, policy, settings)

    def survey(*values: Any) -> Updates:
        try:
            return {survey_error: "", surveying: asked_survey(*values)}
        except ValueError as refused:
            return {survey_error: str(refused)}

    def compute_survey(asked: Surveying | None, study: Studying | None) -> Updates:
        if asked is None or asked.state != "waiting":
            return {survey_error: gr.skip()}
        asked.run(job)
        return {survey_error: asked.refusal, view: value_of(asked, study)}

    def start_study(wanted_k: Any, before: Studying | None) -> Updates:
        if before is not None:
            before.stop()
        try:
            policy = RoutingPolicy(whole_number(wanted_k, "Active experts (k)", 1, info.num_experts))
        except ValueError as refused:
            return {study_error: str(refused)}
        return {study_error: "", studying: Studying(DOMAINS, policy, info), **busy(study_run, study_stop, True)}

    def compute_study(study: Studying | None, asked: Surveying | None) -> Iterator[Updates]:
        if study is None or study.state != "waiting":
            yield {study_error: gr.skip()}
            return
        with closing(study.run(job)) as doings:
            for doing in doings:
                yield {view: value_of(asked, study, doing + " …")}
        yield {study_error: study.refusal, view: value_of(asked, study), **busy(study_run, study_stop, False)}

    def choose(asked: gr.EventData) -> tuple[int, int]:
        return cell_of(asked._data, info)

    on_model: dict[str, Any] = {"concurrency_id": MODEL_QUEUE, "concurrency_limit": settings.max_concurrent_chats}
    for event in (gr.on([text.submit, other.submit, survey_run.click], survey, [text, other, k],
                        [survey_error, surveying], concurrency_limit=None, **_PRIVATE),
                  surveying.change(compute_survey, [surveying, studying], [survey_error, view], **on_model,
                                   **_PRIVATE)):
        event.failure(lambda: UNREACHED, None, survey_error, **_AT_ONCE)
    for event in (study_run.click(start_study, [k, studying], [study_error, studying, study_run, study_stop],
                                  concurrency_limit=None, **_PRIVATE),
                  studying.change(compute_study, [studying, surveying], [study_error, view, study_run, study_stop],
                                  **on_model, **_PRIVATE)):
        event.failure(lambda: {study_error: UNREACHED, **busy(study_run, study_stop, False)}, None,
                      [study_error, study_run, study_stop], **_AT_ONCE)
    study_stop.click(lambda study: halt(study, study_run, study_stop), studying, [study_run, study_stop], **_AT_ONCE)
    view.submit(choose, None, [layer, expert], **_AT_ONCE)

    def open_here(turn: Turn) -> Updates:
        opened = opened_from(turn)
        return {text: "".join(opened.text.texts), k: turn.question.request.routing.num_experts_per_tok,
                survey_error: "", surveying: survey_of_reply(opened, turn)}

    def check(fields: Fields) -> None:
        asked_survey(fields["text"], fields["other"], fields["k"])
        request_and_scale({name: fields[f"mute_{name}"] for name in mute_fields}, info, settings)

    sharing.offers("experts-tab", {"text": text, "other": other, "k": k,
                                   **{f"mute_{name}": field for name, field in mute_fields.items()}}, check)
    replies.opens("experts-tab", "Experts", open_here, [], [text, k, survey_error, surveying])


def value_of(surveying: Surveying | None, studying: Studying | None, doing: str = "") -> str:
    """What the view draws: the surveys and the study that the visitor has."""
    surveyed = surveying.shown() if surveying else {"surveys": [], "divergence": None}
    return as_value({"doing": doing, "asked": id(surveying), "study": studying.shown() if studying else None,
                     **surveyed})


def cell_of(asked: Any, info: ModelInfo) -> tuple[int, int]:
    """The layer and expert that were chosen on the map. Raises ValueError for what the model does not have."""
    fields = asked if isinstance(asked, dict) else {}
    return (whole_number(fields.get("layer"), "Layer", 0, info.num_layers - 1),
            whole_number(fields.get("expert"), "Expert", 0, info.num_experts - 1))


def _files(info: ModelInfo, surveying: gr.State, studying: gr.State, layer: gr.Number) -> None:
    with gr.Row(elem_id="experts-files"):
        which = gr.Dropdown(list(FIGURES), value=next(iter(FIGURES)), label="Figure", elem_id="experts-figure", scale=0,
                            min_width=270)
        buttons = [(kind, gr.Button(kind, size="sm", elem_id=f"experts-{kind.lower()}", scale=0, min_width=58))
                   for kind in KINDS]
    made = gr.File(visible="hidden", elem_id="experts-file")
    for kind, button in buttons:
        button.click(maker(kind, info, made), [which, surveying, studying, layer], made, concurrency_id="figures",
                     concurrency_limit=1, **_PRIVATE).success(None, made, js=read("download.js"), **_AT_ONCE)


def _view(info: ModelInfo) -> gr.HTML:
    atlas = json.loads(read("olmoe_0924_expert_atlas.json"))
    return gr.HTML("", elem_id="experts-view", html_template=read("experts/view.html"),
                   head=f"<style>{read('experts/view.css')}</style>", js_on_load=script(*_SCRIPTS),
                   apply_default_css=False, container=False, padding=False,
                   about={"model": info.name, "atlas": atlas})
