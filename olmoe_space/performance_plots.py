"""A benchmark -> its four figures: performance comparison, router analysis, activation heat map, active parameters.

Each says on what hardware and on what day it was measured.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from .performance import Benchmark
from .plots import Theme, _figure, _panel, _title, expert_heatmap, theme, to_png, to_svg


def performance_comparison(bench: Benchmark, dark: bool = False) -> Figure:
    """Tokens a second against k (ours, stock, what the memory's speed allows), and seconds of the reply."""
    rows, look = bench.rows(), theme(dark)
    figure, (speed, spent) = _two_panels(bench, "performance comparison", _tokens(bench), look)
    ks = [row["k"] for row in rows]
    lines = [("ours", "tokens_per_s", look.accent, "o", "-"), ("stock transformers", "stock_tokens_per_s",
             _second(dark), "s", "-"), ("bandwidth limit", "limit_tokens_per_s", look.muted, "", "--")]
    for name, field, colour, marker, style in lines:
        if rows[0][field] is not None:
            speed.plot(ks, [row[field] for row in rows], color=colour, marker=marker, markersize=4.5, linestyle=style,
                       linewidth=1.7, label=name)
    speed.set_yscale("log")
    speed.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    speed.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    speed.yaxis.set_minor_formatter(NullFormatter())
    _against_k(speed, ks, bench.own_k, "tokens a second (log scale)", look)
    _legend(speed, look)
    width = 0.38
    at = np.arange(len(ks))
    both = rows[0]["stock_seconds"] is not None
    spent.bar(at - width / 2 * both, [row["seconds"] for row in rows], width, color=look.accent, label="ours")
    if both:
        spent.bar(at + width / 2, [row["stock_seconds"] for row in rows], width, color=_second(dark),
                  label="stock transformers")
    spent.set_xticks(at, labels=[str(k) for k in ks])
    spent.set_xlabel("active experts (k)")
    _panel(spent, "seconds of the whole reply", look)
    _legend(spent, look)
    return figure


def router_analysis(bench: Benchmark, dark: bool = False) -> Figure:
    """Routing mass by layer at each k, and how unevenly the experts of a layer were used at each k."""
    look = theme(dark)
    figure, (mass, load) = _two_panels(bench, "router analysis", _tokens(bench), look)
    runs = [run for _, run in sorted(bench.runs.items())]
    for i, run in enumerate(runs):
        shade = look.colours(1 - 0.85 * i / max(1, len(runs) - 1))
        mass.plot(np.arange(len(run.mass)), run.mass, color=shade, linewidth=1.7, marker="o", markersize=3,
                  label=f"k={run.k}")
    mass.set_ylim(0, 1.04)
    mass.set_xlabel("layer")
    _panel(mass, "routing mass: share of the routers’ probability selected", look)
    _legend(mass, look, columns=3, place="lower right")
    busiest = [float((run.expert_counts.max(1) / run.expert_counts.mean(1)).mean()) for run in runs]
    unused = [float((run.expert_counts == 0).mean()) for run in runs]
    ks = [run.k for run in runs]
    load.plot(ks, busiest, color=look.accent, marker="o", markersize=4.5, linewidth=1.7)
    for k, value, share in zip(ks, busiest, unused, strict=True):
        load.annotate(f"{share:.0%} unused", (k, value), (6, 5), textcoords="offset points", size=8,
                      color=look.muted)
    load.set_ylim(0, max(busiest) * 1.18)
    load.margins(x=0.18)
    _against_k(load, ks, bench.own_k, "tokens of a layer’s busiest expert ÷ the mean", look)
    return figure


def activation_heatmap(bench: Benchmark, dark: bool = False) -> Figure:
    """What each expert did at the model's own k, or at the nearest that was measured."""
    k = min(bench.runs, key=lambda k: abs(k - bench.own_k))
    return expert_heatmap(bench.runs[k].expert_counts, model=bench.model, num_experts_per_tok=k, dark=dark,
                          num_tokens=bench.runs[k].new_tokens, where=_where(bench))


def active_parameter_growth(bench: Benchmark, dark: bool = False) -> Figure:
    """Parameters that take part in a token, and bytes that one must read, against k."""
    look, rows = theme(dark), bench.rows()
    figure, (params, size) = _two_panels(bench, "active parameter growth", "one token", look)
    ks = [row["k"] for row in rows]
    for plot, field, title in ((params, "active_params", "parameters that take part in a token"),
                               (size, "bytes_per_token", "bytes that a decoded token must read")):
        values = [row[field] for row in rows]
        scale, unit = next((s, u) for s, u in ((1e9, "billion"), (1e6, "million"), (1.0, "")) if max(values) >= s)
        plot.plot(ks, [v / scale for v in values], color=look.accent, marker="o", markersize=4.5, linewidth=1.7,
                  label="measured model")
        plot.set_ylim(0, max(values) / scale * 1.15)
        _against_k(plot, ks, bench.own_k, f"{title} ({unit})".replace(" ()", ""), look)
    own = bench.runs.get(bench.own_k)
    if own is not None:
        top = params.get_ylim()
        scale = 1e9 if max(r["active_params"] for r in rows) >= 1e9 else 1e6
        params.plot(ks, [own.active_params * k / bench.own_k / scale for k in ks], color=_second(dark),
                    linestyle="--", linewidth=1.4, label="if they grew as k does")
        params.set_ylim(top)
        _legend(params, look, place="lower right")
    return figure


FIGURES: dict[str, Callable[[Benchmark, bool], Figure]] = {
    "performance": performance_comparison, "router": router_analysis, "heatmap": activation_heatmap,
    "parameters": active_parameter_growth}


def _where(bench: Benchmark) -> str:
    return f"{bench.machine.hardware}, {bench.dtype} · {bench.machine.date}" if bench.machine else bench.dtype


def _tokens(bench: Benchmark) -> str:
    run = next(iter(bench.runs.values()))
    return f"a reply of {run.new_tokens} tokens, median of {run.repeats}"


def _two_panels(bench: Benchmark, title: str, what: str, look: Theme) -> tuple[Figure, list[Axes]]:
    if not bench.runs:
        raise ValueError("A benchmark's figures need at least one measured k.")
    figure = _figure(10, 4.0, look)
    _title(figure, f"{bench.model}: {title}", f"{what} · {_where(bench)}", look)
    return figure, [figure.add_axes((left, 0.145, 0.42, 0.62), facecolor=look.surface) for left in (0.065, 0.565)]


def _against_k(plot: Axes, ks: list[int], own_k: int, title: str, look: Theme) -> None:
    plot.set_xscale("log", base=2)
    plot.set_xticks(ks, labels=[str(k) for k in ks])
    plot.xaxis.set_minor_locator(NullLocator())
    plot.axvline(own_k, color=look.muted, linewidth=1, linestyle=(0, (4, 3)), zorder=0.5)
    plot.set_xlabel("active experts (k)")
    _panel(plot, title, look)


def _legend(plot: Axes, look: Theme, columns: int = 1, place: Literal["best", "lower right"] = "best") -> None:
    legend = plot.legend(frameon=False, fontsize=8.5, loc=place, ncols=columns)
    for text in legend.get_texts():
        text.set_color(look.text)


def _second(dark: bool) -> str:
    return "#ffb070" if dark else "#b4530a"


def figures_as_zip(bench: Benchmark, kind: str) -> bytes:
    """The four figures, light, as "PNG" or "SVG" files of one ZIP."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, draw in FIGURES.items():
            figure = draw(bench, False)
            archive.writestr(f"olmoe-{name}.{kind.lower()}", to_png(figure) if kind == "PNG" else to_svg(figure))
    return file.getvalue()
