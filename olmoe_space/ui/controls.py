"""What a visitor may set for the next reply: the experts, and folded away how tokens are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from ..ask import DEFAULT_K_MAX, DEFAULT_K_MIN, FIXED
from ..model_info import ModelInfo
from ..request import ADAPTIVE, SamplingParams
from ..settings import Settings
from .assets import read

MARKS = (1, 8, 16, 32, 64)
WEIGHTINGS = [("Raw", "raw"), ("Renormalised", "renormalised"), ("Mass-preserving", "mass_preserving")]


@dataclass(frozen=True)
class Controls:
    """The components, named as the fields of `ask.request_from_fields`."""

    mode: gr.Radio
    num_experts_per_tok: gr.Slider
    k_min: gr.Number
    k_max: gr.Number
    weighting: gr.Radio
    system_prompt: gr.Textbox
    temperature: gr.Number
    top_p: gr.Number
    max_new_tokens: gr.Number
    seed: gr.Textbox

    @property
    def components(self) -> list[Component]:
        return list(vars(self).values())

    def fields(self, values: tuple[Any, ...]) -> dict[str, Any]:
        """Their values -> keyword arguments of `request_from_fields`. What the mode hides is left to its default,
        so that nobody is stopped by a field that is not on the screen."""
        fields = dict(zip(vars(self), values, strict=True))
        hidden = ("k_min", "k_max") if fields["mode"] == FIXED else ("num_experts_per_tok",)
        return fields | dict.fromkeys(hidden)


def controls(info: ModelInfo, settings: Settings) -> Controls:
    with gr.Column(elem_id="experts-settings", elem_classes=["panel"]):
        with gr.Row(elem_classes=["k-row"], equal_height=False):
            mode = gr.Radio([("Fixed", FIXED), ("Adaptive", ADAPTIVE)], value=FIXED, label="Experts per token",
                            elem_id="mode", container=False, show_label=False, scale=0, min_width=190)
            with gr.Column(elem_id="fixed-k", min_width=240, scale=1) as fixed:
                k = gr.Slider(1, info.num_experts, value=info.default_k, step=1, label="Active experts (k)",
                              elem_id="k", buttons=[])
                _marks(info, k)
            with gr.Row(elem_id="adaptive-k", visible=False) as adaptive:
                k_min = gr.Number(min(DEFAULT_K_MIN, info.num_experts), label="k min", elem_id="k-min",
                                  min_width=70)
                k_max = gr.Number(min(DEFAULT_K_MAX, info.num_experts), label="k max", elem_id="k-max",
                                  min_width=70)
                gr.HTML("<p class='hint'>k is chosen for each prompt, from its length and its technical terms.</p>",
                        container=False, padding=False)
        weighting = gr.Radio(WEIGHTINGS, value="raw", label="Weights of the chosen experts", elem_id="weighting",
                             container=False,
                             info="Raw: the router's own, so more experts add up to more. Renormalised: they sum "
                                  f"to 1. Mass-preserving: they sum to what k = {info.default_k} would.")
    mode.change(lambda chosen: (gr.update(visible=chosen == FIXED), gr.update(visible=chosen == ADAPTIVE)),
                mode, [fixed, adaptive], queue=False, show_progress="hidden", api_visibility="private")
    return Controls(mode, k, k_min, k_max, weighting, *_sampling(settings))


def _marks(info: ModelInfo, k: gr.Slider) -> None:
    """A scale under the slider whose numbers can be clicked; gr.Slider has none."""
    marks = [mark for mark in MARKS if mark <= info.num_experts]
    html = "".join(
        f'<button type="button" data-k="{mark}" style="--at:{(mark - 1) / max(1, info.num_experts - 1):.4f}" '
        f'aria-label="Set k to {mark}{" as trained" if mark == info.default_k else ""}"'
        f'{" class=trained" if mark == info.default_k else ""}>{mark}</button>' for mark in marks)
    scale = gr.HTML(None, html_template=f'<div class="marks">{html}</div>', js_on_load=read("marks.js"),
                    elem_id="k-marks", container=False, padding=False)
    scale.click(None, scale, k, js="(k) => k", queue=False, show_progress="hidden", api_visibility="private")


def _sampling(settings: Settings) -> tuple[gr.Textbox, gr.Number, gr.Number, gr.Number, gr.Textbox]:
    start = SamplingParams()
    with gr.Accordion("System prompt and sampling", open=False, elem_id="sampling"):
        system_prompt = gr.Textbox(label="System prompt", lines=2, max_lines=6, placeholder="None",
                                   elem_id="system-prompt")
        with gr.Row():
            temperature = gr.Number(start.temperature, label="Temperature", info="0 is greedy", step=0.1,
                                    elem_id="temperature", min_width=110)
            top_p = gr.Number(start.top_p, label="Top-p", info="above 0, at most 1", step=0.05, elem_id="top-p",
                              min_width=110)
            max_new = gr.Number(start.max_new_tokens, label="Max new tokens", elem_id="max-new-tokens",
                                info=f"at most {settings.max_new_tokens:,}", min_width=110)
            seed = gr.Textbox("", label="Seed", info="blank: a fresh one", placeholder="fresh", elem_id="seed",
                              max_lines=1, min_width=110)
    return system_prompt, temperature, top_p, max_new, seed
