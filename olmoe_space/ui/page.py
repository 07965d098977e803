"""The page: header and tabs. What is loaded is told by `info`, what is computed comes from `stream`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from starlette.routing import BaseRoute

from ..model_info import ModelInfo
from ..settings import Settings
from .assets import FOLDER
from .benchmark import benchmark_tab
from .chat import MODEL_QUEUE, chat_tab
from .compare import compare_tab
from .endpoints import endpoints
from .experts import experts_tab
from .how_it_works import how_it_works_tab
from .inside import inside_tab
from .markup import as_html, count
from .refusals import Page, app_options
from .replicas import replicas_line
from .sharing import Sharing
from .space import home
from .theme import theme
from .turn import Job, Stream

TITLE = "OLMoE Space"
DELETE_FILES_S = (600, 3600)  # every ten minutes, downloads older than an hour are deleted


def build_page(info: ModelInfo, stream: Stream, settings: Settings, job: Job | None = None,
               state: Callable[[], dict[str, Any]] | None = None) -> gr.Blocks:
    """The app, ready for `launch(**launch_options(settings))`. `job(name, *arguments)` runs a measurement where the
    model is and yields its results; without it there is the chat alone. state: of an engine elsewhere."""
    with Page(title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=DELETE_FILES_S) as page:
        gr.HTML(html_template=_header(info, settings), elem_id="header", container=False, padding=False)
        if state is not None:
            replicas_line(state)
        sharing = Sharing()
        with gr.Tabs(elem_id="tabs") as tabs:
            sharing.of(tabs)
            with gr.Tab("Chat", id="chat-tab", elem_id="panel-chat-tab"):
                replies = chat_tab(info, stream, settings, tabs, sharing)
            if job is not None:
                with gr.Tab("Compare", id="compare-tab", elem_id="panel-compare-tab"):
                    compare_tab(info, job, settings, replies, sharing)
                with gr.Tab("Inside a token", id="inside-tab", elem_id="panel-inside-tab"):
                    inside_tab(info, job, settings, MODEL_QUEUE, replies, sharing)
                with gr.Tab("Experts", id="experts-tab", elem_id="panel-experts-tab"):
                    experts_tab(info, job, settings, replies, sharing)
                with gr.Tab("Benchmark", id="benchmark-tab", elem_id="panel-benchmark-tab"):
                    benchmark_tab(info, job, settings, sharing)
            with gr.Tab("How it works", id="how-it-works-tab", elem_id="panel-how-it-works-tab"):
                how_it_works_tab(info)
        sharing.wire()
        endpoints(info, stream, settings, job)
    page.queue(max_size=settings.max_queue, default_concurrency_limit=settings.max_concurrent_chats)
    return page


def launch_options(settings: Settings, routes: Sequence[BaseRoute] = ()) -> dict[str, Any]:
    """Keyword arguments of `Blocks.launch` that belong to the page; gradio 6 takes its look there. routes: served
    before gradio's own."""
    return {
        "theme": theme(), "css_paths": [FOLDER / "page.css"],
        "server_name": settings.host, "server_port": settings.port,
        "ssr_mode": False,        # would need Node
        "run_history": False,     # would keep prompts in the browser
        "footer_links": ["api"], "show_error": True, "enable_monitoring": False,
        "state_session_capacity": settings.max_sessions,
        "max_threads": 40 + settings.max_concurrent_chats,  # gradio's 40 for what is quick, one for each reply
        "max_file_size": settings.max_upload_bytes,
        "mcp_server": True,       # the endpoints as tools, at /gradio_api/mcp/
        "app_kwargs": {"routes": [*routes], **app_options()},
    }


def badge(info: ModelInfo) -> str:
    """olmoe-tiny · 31.7M · float32 · CPU"""
    return " · ".join((info.name, count(info.total_params), info.dtype, info.device))


def _header(info: ModelInfo, settings: Settings) -> str:
    why = (f'<details class="why"><summary>why this model?</summary><p>{as_html(info.notice)}</p></details>'
           if info.notice else "")
    return (f'<header class="top"><h1>{TITLE}</h1><div class="badge"><span>{as_html(badge(info))}</span>{why}</div>'
            f'<nav aria-label="This project">{_links(settings)}</nav></header>')


def _links(settings: Settings) -> str:
    """On a Space: its own pages. Elsewhere there is no address to link to, so the same is said in words."""
    if here := home(settings):
        return (f'<a href="{here}?duplicate=true" target="_blank" rel="noopener">Duplicate</a>'
                f'<a href="{here}/tree/main" target="_blank" rel="noopener">Code</a>')
    return ('<details class="why"><summary>Duplicate</summary><p>This runs on your own machine. To have it as a '
            'Space, send this folder there: <code>hf upload YOU/NAME . --repo-type space</code>. '
            'README.md says more.</p></details>'
            '<details class="why"><summary>Code</summary><p>The code is the folder that this was started from; '
            'README.md is its first page.</p></details>')
