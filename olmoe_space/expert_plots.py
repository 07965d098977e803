"""What was measured of the experts -> matplotlib figures, in the style of `plots`.

Takes arrays and plain strings only. Shapes: L layers, E experts, G groups of tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .plots import Theme, _count, _cut, _figure, _panel, _plain, _steps, _title, clean, theme


def layer_profile(imbalance: np.ndarray, variation: np.ndarray, entropy: np.ndarray, mass: Mapping[int, np.ndarray], *,
                  model: str, num_tokens: int, num_experts_per_tok: int, what: str, dark: bool = False) -> Figure:
    """Each layer's imbalance of load, routing entropy and mass. All arrays [L]; entropy in nats; mass: k -> [L]."""
    look = theme(dark)
    figure = _figure(10, 3.6, look)
    _title(figure, f"{model}: load, entropy and mass of each layer",
           f"k = {num_experts_per_tok} · {_count(num_tokens, 'token')} of {what}", look)
    second = _second(dark)
    panels = [(0.06, "imbalance of load", [("busiest / mean", imbalance, look.accent, "o"),
                                           ("deviation / mean", variation, second, "s")]),
              (0.385, "routing entropy (nats)", [("", entropy, look.accent, "o")]),
              (0.71, "mass of the k most probable", [(f"k={k}", values, colour, marker) for (k, values), colour, marker
                                                     in zip(mass.items(), (look.accent, second, look.muted), "os^",
                                                            strict=False)])]
    layers = np.arange(len(entropy))
    for left, title, curves in panels:
        plot = figure.add_axes((left, 0.155, 0.275, 0.575), facecolor=look.surface)
        for name, values, colour, marker in curves:
            plot.plot(layers, values, color=colour, marker=marker, markersize=3.2, linewidth=1.6, label=name)
        room = 1.4 if "imbalance" in title else 1.12  # for the legend above the curves
        plot.set_ylim(0, room * max(1e-9, *(float(v.max()) for _, v, _, _ in curves)))
        plot.set_xticks(_steps(len(layers), 8))
        plot.set_xlabel("layer")
        if len(curves) > 1:
            legend = plot.legend(frameon=False, fontsize=8, loc="lower left" if "mass" in title else "upper right")
            for text in legend.get_texts():
                text.set_color(look.text)
        _panel(plot, title, look)
    return figure


def co_activation_map(share: np.ndarray, *, model: str, layer: int, num_tokens: int, what: str,
                      dark: bool = False) -> Figure:
    """N(i, j) / N(i) of one layer. share: float [E, E]; its diagonal is left out."""
    look, values = theme(dark), np.array(share, dtype=float)
    np.fill_diagonal(values, 0)
    figure = _figure(7.2, 7.4, look)
    _title(figure, f"{model}: experts that work together in layer {layer}",
           f"N(i, j) / N(i) · {_count(num_tokens, 'token')} of {what}", look)
    _map(figure, (0.09, 0.13, 0.86, 0.76), values, "expert j", "expert i", look, None)
    return figure


def group_map(share: np.ndarray, groups: Sequence[str], tokens: np.ndarray, uniform: float, *, model: str, layer: int,
              what: str, dark: bool = False) -> Figure:
    """The share of each group's tokens that each expert of one layer worked on. share: [G, E]; tokens: [G]; uniform:
    k / E, marked on the scale."""
    look = theme(dark)
    figure = _figure(10, 1.9 + 0.26 * len(groups), look)
    _title(figure, f"{model}: share of tokens an expert works on, by {what}, layer {layer}",
           f"N(E, g) / N(g) · uniform: k / E = {100 * uniform:.3g} %", look)
    height = figure.get_figheight()
    plot = _map(figure, (0.17, 1.0 / height, 0.815, 1 - 1.65 / height), np.asarray(share, float), "expert", "", look,
                uniform)
    plot.set_yticks(np.arange(len(groups)), labels=[f"{_cut(clean(g), 16)} ({n:,})" for g, n in
                                                    zip(groups, tokens, strict=True)])
    return figure


def claims_chart(claims: Sequence[str], effects: np.ndarray, controls: np.ndarray, highest: np.ndarray, *, model: str,
                 num_tokens: int, dark: bool = False) -> Figure:
    """Each claim's effect beside what shuffled labels give: their mean and their largest. All arrays [C], in [0, 1]."""
    look = theme(dark)
    figure = _figure(10, 1.5 + 0.42 * len(claims), look)
    _title(figure, f"{model}: five claims about experts, measured",
           f"{_count(num_tokens, 'token')} of the sample · mean distance of a group's expert load from all tokens' · "
           "bar: shuffled labels, mean to largest", look)
    plot = figure.add_axes((0.38, 0.6 / figure.get_figheight(), 0.59, 1 - 1.4 / figure.get_figheight()),
                           facecolor=look.surface)
    rows = np.arange(len(claims))
    plot.hlines(rows, controls, highest, color=look.muted, linewidth=6, label="shuffled")
    plot.plot(effects, rows, "o", color=look.accent, markersize=7, label="measured")
    plot.set_yticks(rows, labels=[_cut(clean(c), 60) for c in claims])
    plot.set_ylim(len(claims) - 0.5, -0.5)
    plot.set_xlim(0, 1.15 * max(1e-9, float(effects.max()), float(highest.max())))
    _panel(plot, "", look)
    plot.grid(axis="x", color=look.line, linewidth=0.7)
    return figure


def _map(figure: Figure, place: tuple[float, float, float, float], values: np.ndarray, across: str, down: str,
         look: Theme, uniform: float | None) -> Axes:
    """Shares in percent, and their scale below."""
    plot = figure.add_axes(place)
    rows, columns = values.shape
    mesh = plot.pcolormesh(np.arange(columns + 1) - 0.5, np.arange(rows + 1) - 0.5, 100 * values, cmap=look.colours,
                           vmin=0, vmax=100 * max(1e-9, float(values.max())))
    plot.set_xlim(-0.5, columns - 0.5)
    plot.set_ylim(rows - 0.5, -0.5)
    plot.set_xticks(_steps(columns, 16))
    plot.set_yticks(_steps(rows, 16))
    plot.set_xlabel(across)
    plot.set_ylabel(down)
    bar = figure.add_axes((place[0], 0.34 / figure.get_figheight(), 0.25, 0.11 / figure.get_figheight()))
    scale = figure.colorbar(mesh, cax=bar, orientation="horizontal")
    scale.outline.set_visible(False)
    if uniform is not None:
        bar.axvline(100 * uniform, color=look.text, linewidth=1.2)
    bar.set_title("% of tokens", loc="right", size=8, color=look.muted, x=1.45, y=-0.9)
    for axes in (plot, bar):
        _plain(axes, look)
        for side in axes.spines.values():
            side.set_visible(False)
    return plot


def _second(dark: bool) -> str:
    return "#ffb070" if dark else "#b4530a"
