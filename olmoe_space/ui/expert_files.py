"""The tab Experts as files: its figures (PNG, SVG) and its numbers (CSV, JSON), each made when it is asked for."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np

from ..model_info import ModelInfo
from ..request import whole_number
from ..survey import Study, Survey, study_as_json, survey_as_json
from .downloads import private_file
from .studying import HEAD, Studying
from .surveying import Surveying

if TYPE_CHECKING:  # plots are imported where a figure is drawn: matplotlib takes most of a second to come
    from matplotlib.figure import Figure

KINDS = ("PNG", "SVG", "CSV", "JSON")
NO_SURVEY = "There is no survey to draw. Press Survey first."
NO_STUDY = "Specialisation has not been measured yet. Press Measure specialisation first."
NOTHING = "There is nothing to download yet. Press Survey or Measure specialisation first."


def heat_map(survey: Survey, info: ModelInfo, layer: int) -> Figure:
    from ..plots import expert_heatmap

    return expert_heatmap(survey.counts, model=info.name, num_experts_per_tok=survey.num_experts_per_tok,
                          num_tokens=len(survey.pieces), what=survey.name)


def layers(survey: Survey, info: ModelInfo, layer: int) -> Figure:
    from ..expert_plots import layer_profile

    return layer_profile(survey.max_over_mean, survey.variation, survey.entropy, survey.mass, model=info.name,
                         num_tokens=len(survey.pieces), num_experts_per_tok=survey.num_experts_per_tok,
                         what=survey.name)


def pairs(survey: Survey, info: ModelInfo, layer: int) -> Figure:
    from ..expert_plots import co_activation_map

    return co_activation_map(survey.co_activation(layer), model=info.name, layer=layer, num_tokens=len(survey.pieces),
                             what=survey.name)


def groups(what: str) -> Callable[[Study, ModelInfo, int], Figure]:
    def draw(study: Study, info: ModelInfo, layer: int) -> Figure:
        from ..expert_plots import group_map

        shares = next(s for s in study.shares if s.what == what)
        return group_map(shares.share[:, layer], shares.groups, shares.tokens, study.uniform, model=info.name,
                         layer=layer, what=what)

    return draw


def claims(study: Study, info: ModelInfo, layer: int) -> Figure:
    from ..expert_plots import claims_chart

    tested = study.insights
    columns = (np.array([getattr(i, name) for i in tested]) for name in ("effect", "control", "highest"))
    return claims_chart([i.claim for i in tested], *columns, model=info.name, num_tokens=study.tokens)


FIGURES: dict[str, tuple[str, Callable[[Any, ModelInfo, int], Figure]]] = {
    "Experts at work": ("survey", heat_map),
    "Load, entropy and mass of each layer": ("survey", layers),
    "Co-activation in the chosen layer": ("survey", pairs),
    "Domains in the chosen layer": ("study", groups("domain")),
    "Places in the chosen layer": ("study", groups("position")),
    "Kinds of sentence in the chosen layer": ("study", groups("kind")),
    "The five claims": ("study", claims),
}


def maker(kind: str, info: ModelInfo, made: gr.File) -> Callable[..., str]:
    def make(which: str, surveying: Surveying | None, studying: Studying | None, layer: Any) -> str:
        if kind in ("PNG", "SVG"):
            content, name = _figure(kind, which, surveying, studying, info, chosen(layer, info)), which
        else:
            content, name = _numbers(kind, surveying, studying, info), "experts"
        return private_file(made, f"olmoe-{name.lower().replace(' ', '-').replace(',', '')}.{kind.lower()}", content)

    return make


def chosen(layer: Any, info: ModelInfo) -> int:
    try:
        return whole_number(layer, "Layer", 0, info.num_layers - 1)
    except ValueError as refused:
        raise gr.Error(str(refused), print_exception=False) from None


def _figure(kind: str, which: str, surveying: Surveying | None, studying: Studying | None, info: ModelInfo,
            layer: int) -> bytes:
    from ..plots import to_png, to_svg

    source, draw = FIGURES[which]
    study = studying.study if studying else None
    subject: Survey | Study | None = study
    if source == "survey":
        subject = surveying.surveys[0] if surveying and surveying.surveys else None
    elif study is not None and draw is claims and not study.insights:
        subject = None
    if subject is None:
        raise gr.Error(NO_SURVEY if source == "survey" else NO_STUDY, print_exception=False)
    return (to_png if kind == "PNG" else to_svg)(draw(subject, info, layer))


def _numbers(kind: str, surveying: Surveying | None, studying: Studying | None, info: ModelInfo) -> bytes:
    done = [part for part in (surveying, studying) if part is not None]
    rows = [row for part in done for row in part.rows()]
    if not rows:
        raise gr.Error(NOTHING, print_exception=False)
    if kind == "JSON":
        told = {"model": info.name, "dtype": info.dtype, "hardware": info.device,

                "surveys": [survey_as_json(s) for s in surveying.surveys] if surveying else [],
                "study": study_as_json(studying.study) if studying and studying.study else None}
        return json.dumps(told).encode()
    file = io.StringIO()
    csv.writer(file).writerows([HEAD, *rows])
    return file.getvalue().encode()
