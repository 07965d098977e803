"""After the reply: its figure (PNG, SVG) and its trace (NPZ, JSON), each made when it is asked for.

The files live in gradio's cache, in a folder with a random name that only this server may list, and are
deleted with it (see `page.DELETE_FILES_S`).
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from ..model_info import ModelInfo
from ..trace import RoutingTrace
from .assets import read
from .turn import Turn

if TYPE_CHECKING:  # plots is imported where a figure is drawn: matplotlib takes most of a second to come
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

GONE = "There is nothing to download: the reply is no longer kept. Send the message again."
NO_ROOM = "The file could not be written: the server's disk is full. Nothing of yours is lost; try again later."
KINDS = ("PNG", "SVG", "NPZ", "JSON")


def file_of(kind: str, trace: RoutingTrace, model: str) -> bytes:
    """The trace as a file of one of KINDS."""
    if kind in ("PNG", "SVG"):
        from ..plots import to_png, to_svg

        return (to_png if kind == "PNG" else to_svg)(heatmap(trace, model))
    return trace.to_npz() if kind == "NPZ" else trace.to_json().encode()


def heatmap(trace: RoutingTrace, model: str, dark: bool = False) -> Figure:
    from ..plots import expert_heatmap

    return expert_heatmap(trace.expert_counts("decode"), model=model, dark=dark,
                          num_experts_per_tok=trace.mean_k("decode"),
                          num_tokens=trace.num_tokens - trace.prompt_tokens)


def summary(trace: RoutingTrace, model: str, dark: bool = False) -> Figure:
    from ..plots import routing_summary

    return routing_summary(trace.routing_mass("decode"), trace.routing_entropy("decode"), model=model, dark=dark,
                           num_experts=trace.num_experts, num_experts_per_tok=trace.mean_k("decode"))


def downloads(info: ModelInfo, turn_state: gr.State) -> tuple[gr.Row, gr.Accordion]:
    """The row of buttons and the folded figures; both are shown once there is a reply."""
    with gr.Row(elem_id="downloads", visible=False) as row:
        buttons = []
        for label, kinds in (("Figure", KINDS[:2]), ("Trace", KINDS[2:])):
            gr.HTML(html_template=f'<span class="downloads-label">{label}</span>', container=False, padding=False,
                    elem_classes=["shrink"])
            buttons += [(kind, gr.Button(kind, size="sm", elem_id=f"download-{kind.lower()}", scale=0, min_width=52))
                        for kind in kinds]
    made = gr.File(visible="hidden", elem_id="made-file")
    with gr.Accordion("Figures of this reply", open=False, visible=False, elem_id="figures") as fold:
        map_plot, summary_plot = (gr.Plot(show_label=False, container=False, elem_id=name)
                                  for name in ("heatmap-figure", "summary-figure"))
        is_dark = gr.Checkbox(visible=False)
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden",
                             "concurrency_id": "figures", "concurrency_limit": 1}  # drawing is costly
    for kind, button in buttons:
        button.click(_maker(kind, info, made), turn_state, made, **quiet).success(
            None, made, js=read("download.js"), queue=False, api_visibility="private", show_progress="hidden")

    def draw(turn: Turn | None, dark: bool) -> tuple[Figure, Figure]:
        trace = _trace(turn)
        return heatmap(trace, info.name, dark), summary(trace, info.name, dark)

    fold.expand(draw, [turn_state, is_dark], [map_plot, summary_plot], **(quiet | {"show_progress": "minimal"}),
                js="(turn) => [turn, document.body.classList.contains('dark')]")
    return row, fold


def _maker(kind: str, info: ModelInfo, made: gr.File) -> Callable[[Turn | None], str]:
    def make(turn: Turn | None) -> str:
        trace = _trace(turn)
        return private_file(made, f"olmoe-k{trace.num_experts_per_tok}-seed{trace.seed}.{kind.lower()}",
                            file_of(kind, trace, info.name))

    return make


def private_file(made: gr.File, name: str, content: bytes) -> str:
    """Writes a file for one visitor into a folder of its own with a random name, in gradio's cache; its path."""
    folder = Path(made.GRADIO_CACHE) / secrets.token_urlsafe(16)
    path = folder / name
    try:
        folder.mkdir(mode=0o700, parents=True)
        path.write_bytes(content)
    except OSError as error:
        log.error("A file for a visitor could not be written: %s", error)
        path.unlink(missing_ok=True)  # half of a file is worth nothing, and takes the room that is missing
        raise gr.Error(NO_ROOM, print_exception=False) from None
    return str(path)


def _trace(turn: Turn | None) -> RoutingTrace:
    trace = turn.chosen.trace() if turn is not None else None
    if trace is None or trace.num_tokens == trace.prompt_tokens:
        raise gr.Error(GONE, print_exception=False)
    return trace
