"""The tab Benchmark: what k costs on this machine, as table and figures, and what has been claimed of it.

What runs is a `Benchmarking` in the visitor's own state; putting a new one there, and nothing else, starts it, and
Stop sets its flag. Nothing here is shared between visitors.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import gradio as gr

from ..model_info import ModelInfo
from ..settings import Settings
from .assets import read, script
from .benchmarking import MAX_REPEATS, MIN_TOKENS, Benchmarking, plan_from_fields
from .chat import MODEL_QUEUE, UNREACHED
from .downloads import private_file
from .plain_text import plain_text
from .run_and_stop import busy, halt
from .sharing import Sharing
from .turn import Job

PROMPT = "Tell me a story about a fox with a bell on its tail."
KS = (1, 4, 8, 16, 32, 64)
TOKENS, REPEATS = 16, 2  # with stock 36 s for olmoe-tiny on two cores that were busy with other work too
NAMES = ("prompt", "ks", "new_tokens", "repeats", "stock")  # of `plan_from_fields`, in this order
KEEP_S = 1800  # seconds a result is kept
FIGURES = ("performance", "router", "heatmap", "parameters")  # of performance_plots, in this order
NOTHING = "There is nothing to download: the benchmark is no longer kept. Run it again."
_PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
_AT_ONCE: dict[str, Any] = {"queue": False, **_PRIVATE}
Updates = dict[Any, Any]


def benchmark_tab(info: ModelInfo, job: Job, settings: Settings, sharing: Sharing) -> None:
    running = gr.State(None, time_to_live=KEEP_S)
    with gr.Row(elem_id="benchmark-compose", equal_height=True):
        prompt = gr.Textbox(PROMPT, label="Prompt", elem_id="benchmark-prompt", lines=1, max_lines=6, scale=1)
        run = gr.Button("Run", variant="primary", elem_id="benchmark-run", scale=0, min_width=76)
        stop = gr.Button("Stop", variant="stop", elem_id="benchmark-stop", scale=0, min_width=76, visible=False)
    error = plain_text("benchmark-error", "alert")
    fields = _fields(info, settings)
    view = _view()
    plots = _plots()
    files, buttons, made = _files()
    is_dark = gr.Checkbox(visible=False)

    def start(typed: str, before: Benchmarking | None, *values: Any) -> Updates:
        if before is not None:
            before.stop()
        try:
            plan = plan_from_fields(info, settings, typed, *values)
        except ValueError as refused:
            return {error: str(refused)}
        return {error: "", running: Benchmarking(plan, info), files: gr.update(visible=False), **busy(run, stop, True),
                **dict.fromkeys(plots, gr.update(visible=False))}

    def compute(benchmark: Benchmarking | None, dark: bool) -> Iterator[Updates]:
        if benchmark is None or benchmark.state != "waiting":
            yield {error: gr.skip()}
            return
        with closing(benchmark.run(job)) as values:
            for value in values:
                yield {view: value}
        yield {error: benchmark.refusal, **busy(run, stop, False), **_drawn(benchmark, dark)}

    def _drawn(benchmark: Benchmarking, dark: bool) -> Updates:
        if not benchmark.result.runs:
            return {}
        from ..performance_plots import FIGURES as draw  # matplotlib takes most of a second to come

        return {files: gr.update(visible=True),
                **{plot: gr.update(value=draw[name](benchmark.result, dark), visible=True)
                   for name, plot in zip(FIGURES, plots, strict=True)}}

    everything = [error, view, run, stop, files, *plots]
    asked = gr.on([prompt.submit, run.click], start, [prompt, running, *fields], [running, *everything],
                  concurrency_limit=None, **_PRIVATE)
    computed = running.change(
        compute, [running, is_dark], everything,
        js="(running) => [running, document.body.classList.contains('dark')]",
        concurrency_id=MODEL_QUEUE, concurrency_limit=settings.max_concurrent_chats, **_PRIVATE)
    for event in (asked, computed):  # the queue was full, or the connection broke
        event.failure(lambda: {error: UNREACHED, **busy(run, stop, False)}, None, [error, run, stop], **_AT_ONCE)
    stop.click(lambda benchmark: halt(benchmark, run, stop), running, [run, stop], **_AT_ONCE)
    sharing.offers("benchmark-tab", dict(zip(NAMES, [prompt, *fields], strict=True)),
                   lambda given: plan_from_fields(info, settings, *(given[name] for name in NAMES)))
    for kind, button in buttons:
        button.click(_maker(kind, made), running, made, concurrency_id="figures", concurrency_limit=1,
                     **_PRIVATE).success(None, made, js=read("download.js"), **_AT_ONCE)


def _fields(info: ModelInfo, settings: Settings) -> list[Any]:
    """k, new tokens, repeats, stock: as `plan_from_fields` takes them."""
    ks = ", ".join(str(k) for k in KS if k <= info.num_experts)
    with gr.Row(elem_id="benchmark-fields"):
        return [
            gr.Textbox(ks, label="Active experts (k)", info="with commas between them", elem_id="benchmark-ks",
                       max_lines=1, min_width=150),
            gr.Number(TOKENS, label="New tokens", elem_id="benchmark-tokens", min_width=110,
                      info=f"{MIN_TOKENS} to {settings.max_new_tokens:,}"),
            gr.Number(REPEATS, label="Repeats", info=f"at most {MAX_REPEATS}; medians", elem_id="benchmark-repeats",
                      min_width=110),
            gr.Checkbox(True, label="Stock transformers too", info="on the same weights, in turn with ours",
                        elem_id="benchmark-stock", min_width=170),
        ]


def _view() -> gr.HTML:
    return gr.HTML("", elem_id="benchmark-view", html_template=read("benchmark/view.html"),
                   head=f"<style>{read('benchmark/view.css')}</style>",
                   js_on_load=script("elements.js", "benchmark/view.js"), apply_default_css=False, container=False,
                   padding=False)


def _plots() -> list[gr.Plot]:
    with gr.Column(elem_id="benchmark-plots"):
        return [gr.Plot(show_label=False, container=False, visible=False, elem_id=f"benchmark-{name}")
                for name in FIGURES]


def _files() -> tuple[gr.Row, list[tuple[str, gr.Button]], gr.File]:
    with gr.Row(elem_id="benchmark-files", visible=False) as row:
        buttons = []
        for label, kinds in (("Numbers", ("CSV", "JSON")), ("Figures", ("PNG", "SVG"))):
            gr.HTML(html_template=f'<span class="downloads-label">{label}</span>', container=False, padding=False,
                    elem_classes=["shrink"])
            buttons += [(kind, gr.Button(kind, size="sm", elem_id=f"benchmark-{kind.lower()}", scale=0, min_width=52))
                        for kind in kinds]
    return row, buttons, gr.File(visible="hidden", elem_id="benchmark-file")


def _maker(kind: str, made: gr.File) -> Any:
    def make(benchmark: Benchmarking | None) -> str:
        if benchmark is None or not benchmark.result.runs:
            raise gr.Error(NOTHING, print_exception=False)
        name, content = file_of(kind, benchmark)
        return private_file(made, name, content)

    return make


def file_of(kind: str, benchmark: Benchmarking) -> tuple[str, bytes]:
    """Name and content of a download; the four figures come as one ZIP."""
    result = benchmark.result
    if kind in ("CSV", "JSON"):
        return f"olmoe-benchmark.{kind.lower()}", (result.to_csv() if kind == "CSV" else result.to_json()).encode()
    from ..performance_plots import figures_as_zip

    return f"olmoe-benchmark-{kind.lower()}.zip", figures_as_zip(result, kind)
