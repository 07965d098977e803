"""What a visitor may set for the next reply: the experts, and folded away how tokens are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from ..ask import DEFAULT_K_MAX, DEFAULT_K_MIN, FIXED, PER_TOKEN, usual_parameter
from ..model_info import ModelInfo
from ..request import ADAPTIVE, SamplingParams
from ..rules import ENTROPY, LAYER_BUDGET, RANDOM, RELATIVE_SKIP, TOP_P
from ..settings import Settings
from .assets import read
from .plain_text import plain_text

MARKS = (1, 8, 16, 32, 64)
WEIGHTINGS = [("Raw", "raw"), ("Renormalised", "renormalised"), ("Mass-preserving", "mass_preserving")]
ADAPTIVE_HINT = "k is chosen for each prompt, from its length and its technical terms."
RULE_WORDS = {  # rule -> its name, its parameter's name, what it does
    TOP_P: ("Top-p", "P", "k is the fewest experts whose probabilities reach P, for each token and layer."),
    RELATIVE_SKIP: ("Relative skip", "β", "Experts less probable than β times the first are left out."),
    ENTROPY: ("Entropy", "from", "k grows with the router's entropy, from this share of its maximum on."),
    LAYER_BUDGET: ("Budget per layer", "experts", "So many experts over all layers, where they change most."),
    RANDOM: ("Random (control)", "k", "Experts drawn at random, with the router's own weights for them."),
}


@dataclass(frozen=True)
class Controls:
    """The components, named as the fields of `ask.request_from_fields`."""

    mode: gr.Radio
    num_experts_per_tok: gr.Slider
    k_min: gr.Number
    k_max: gr.Number
    rule: gr.Dropdown
    parameter: gr.Number
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
        hidden = {FIXED: ("k_min", "k_max", "rule", "parameter"), PER_TOKEN: ("num_experts_per_tok",),
                  ADAPTIVE: ("num_experts_per_tok", "rule", "parameter")}[fields["mode"]]
        return fields | dict.fromkeys(hidden)


def controls(info: ModelInfo, settings: Settings) -> Controls:
    with gr.Column(elem_id="experts-settings", elem_classes=["panel"]):
        with gr.Row(elem_classes=["k-row"], equal_height=False):
            mode = gr.Radio([("Fixed", FIXED), ("Adaptive", ADAPTIVE), ("Per token", PER_TOKEN)], value=FIXED,
                            label="Experts per token", elem_id="mode", container=False, show_label=False, scale=0,
                            min_width=280)
            with gr.Column(elem_id="fixed-k", min_width=240, scale=1) as fixed:
                k = gr.Slider(1, info.num_experts, value=info.default_k, step=1, label="Active experts (k)",
                              elem_id="k", buttons=[])
                _marks(info, k)
            with gr.Row(elem_id="chosen-k", visible=False) as chosen_k:
                with gr.Row(elem_id="rule-of-k", visible=False) as rule_row:
                    rule = gr.Dropdown([(name, key) for key, (name, _, _) in RULE_WORDS.items()], value=TOP_P,
                                       label="Rule", elem_id="rule", min_width=140, filterable=False)
                    parameter = gr.Number(usual_parameter(TOP_P, info, DEFAULT_K_MIN, DEFAULT_K_MAX), min_width=70,
                                          label=RULE_WORDS[TOP_P][1], elem_id="rule-parameter", step=0.05)
                k_min = gr.Number(min(DEFAULT_K_MIN, info.num_experts), label="k min", elem_id="k-min",
                                  min_width=70)
                k_max = gr.Number(min(DEFAULT_K_MAX, info.num_experts), label="k max", elem_id="k-max",
                                  min_width=70)
                hint = plain_text("k-hint", "note", ADAPTIVE_HINT)
        weighting = gr.Radio(WEIGHTINGS, value="raw", label="Weights of the chosen experts", elem_id="weighting",
                             container=False,
                             info="Raw: the router's own, so more experts add up to more. Renormalised: they sum "
                                  f"to 1. Mass-preserving: they sum to what k = {info.default_k} would.")

    def show(chosen: str, rule_name: str) -> tuple[Any, ...]:
        return (gr.update(visible=chosen == FIXED), gr.update(visible=chosen != FIXED),
                gr.update(visible=chosen == PER_TOKEN),
                RULE_WORDS[rule_name][2] if chosen == PER_TOKEN else ADAPTIVE_HINT)

    def show_rule(rule_name: str, low: Any, high: Any) -> tuple[Any, ...]:
        low, high = int(low or DEFAULT_K_MIN), int(high or DEFAULT_K_MAX)
        _, label, words = RULE_WORDS[rule_name]
        step = 1 if rule_name in (LAYER_BUDGET, RANDOM) else 0.05
        return gr.update(label=label, value=usual_parameter(rule_name, info, low, high), step=step), words

    at_once: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    mode.change(show, [mode, rule], [fixed, chosen_k, rule_row, hint], **at_once)
    rule.change(show_rule, [rule, k_min, k_max], [parameter, hint], **at_once)
    return Controls(mode, k, k_min, k_max, rule, parameter, weighting, *_sampling(settings))


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
