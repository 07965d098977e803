"""One screen for a newcomer: the words in assets/how_it_works.html, the drawing in assets/how_it_works.svg, and
here the loaded model's own numbers that go into both (their places are marked with @)."""

from __future__ import annotations

from string import Template

import gradio as gr

from ..model_info import ModelInfo
from .assets import read
from .markup import as_html, count

BARS = 40          # shares drawn; more would be hairlines
CELLS_A_ROW = 16


class _Page(Template):
    delimiter = "@"


def how_it_works_tab(info: ModelInfo) -> None:
    gr.HTML(html_template=how_it_works(info), elem_id="how-it-works", container=False, padding=False)


def how_it_works(info: ModelInfo) -> str:
    k = info.default_k
    numbers = {
        "name": as_html(info.name), "k": k, "experts": info.num_experts, "layers": info.num_layers,
        "all_experts": f"{info.num_layers * info.num_experts:,}", "vocabulary": f"{info.vocab_size:,}",
        "context": f"{info.context_length:,}", "expert_params": count(info.expert_params),
        "active_k": count(info.active_params(k)), "total": count(info.total_params),
        "examples_of_k": _examples_of_k(info),
    }
    picture = _Page(read("how_it_works.svg")).substitute(numbers, bars=_bars(k, info.num_experts),
                                                         cells=_cells(k, info.num_experts))
    return _Page(read("how_it_works.html")).substitute(numbers, picture=picture)


def _examples_of_k(info: ModelInfo) -> str:
    """": 11.0M at k = 16, 31.7M at k = 64", as far as the model has experts."""
    larger = [k for k in (2 * info.default_k, info.num_experts) if info.default_k < k <= info.num_experts]
    told = ", ".join(f"{count(info.active_params(k))} at k = {k}" for k in dict.fromkeys(larger))
    return f": {told}" if told else ""


def _bars(k: int, num_experts: int) -> str:
    """Shares, largest first: a drawing, not a measurement."""
    shown = min(BARS, num_experts)
    step = 256 / shown
    heights = [max(2.0, 48 * 0.93 ** i) for i in range(shown)]
    return "".join(f'<rect{" class=on" if i < k else ""} x="{72 + i * step:.1f}" y="{266 - height:.1f}" '
                   f'width="{step * .7:.1f}" height="{height:.1f}"/>' for i, height in enumerate(heights))


def _cells(k: int, num_experts: int) -> str:
    """Every expert of a layer as a square, k of them at work, spread as by chance."""
    rows = -(-num_experts // CELLS_A_ROW)
    side = min(16.0, 88 / rows)
    chosen = set(list(dict.fromkeys((7 + 29 * i) % num_experts for i in range(num_experts)))[:k])
    left = 200 - CELLS_A_ROW * side / 2
    return "".join(f'<rect{" class=on" if i in chosen else ""} x="{left + i % CELLS_A_ROW * side + 1:.1f}" '
                   f'y="{358 + i // CELLS_A_ROW * side + 1:.1f}" width="{side - 2.5:.1f}" height="{side - 2.5:.1f}" '
                   f'rx="2"/>' for i in range(num_experts))
