"""One screen for a newcomer."""

from __future__ import annotations

import gradio as gr

from ..model_info import ModelInfo


def how_it_works_tab(info: ModelInfo) -> None:
    gr.HTML(html_template=f"<p>{info.num_layers} layers of {info.num_experts} experts.</p>")
