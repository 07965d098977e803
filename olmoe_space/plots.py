"""Arrays -> matplotlib figures, in one style, light or dark; and figures -> bytes.

Takes arrays and plain strings only. Never pyplot: that keeps every figure for ever, and a server draws many.
Shapes: T tokens, L layers, E experts.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

# Set once for the process, not around each figure: rc_context swaps global state under other threads' figures.
matplotlib.rcParams.update({
    "text.parse_math": False,      # a "$" in a name is a dollar
    "svg.fonttype": "none",        # text stays text: small, searchable, read aloud
    "svg.hashsalt": "olmoe-space",  # the same figure gives the same bytes
})

# The colours of the live view (assets/live_view/scale.js), few to many.
STOPS = {
    False: ["#e3f0c4", "#a5d9b2", "#5bbab6", "#2d90b8", "#2a61a5", "#2a398a", "#1b1a5a"],
    True: ["#29307a", "#2a55a6", "#2a7fb6", "#38a8b2", "#70caa3", "#b6e29f", "#f8facf"],
}
POWER = 0.7  # of the colour scale: most experts get few tokens; the colour bar has the numbers


@dataclass(frozen=True)
class Theme:
    surface: str
    text: str
    muted: str
    line: str
    none: str
    accent: str
    colours: Colormap


def theme(dark: bool) -> Theme:
    colours: Colormap = LinearSegmentedColormap.from_list("experts", STOPS[dark])
    if dark:
        colours = colours.with_extremes(bad="#1f2230")
        return Theme("#12141d", "#eceef6", "#a4a9bb", "#363a4b", "#1f2230", "#aaa4ff", colours)
    colours = colours.with_extremes(bad="#eff0f4")
    return Theme("#ffffff", "#1d1f2b", "#5d6173", "#dfe1ea", "#eff0f4", "#5246c9", colours)


def expert_heatmap(values: np.ndarray, *, model: str, num_experts_per_tok: float, num_tokens: int,
                   what: str = "the reply", unit: str = "tokens per expert", where: str = "",
                   dark: bool = False) -> Figure:
    """What each expert did: layers down, experts across.

    values: [L, E], counts or summed weights; zero is drawn as none, which is no colour of the scale.
    num_tokens and what: how many tokens of what were counted. unit: that of the values. where: hardware and date.
    """
    values = np.asarray(values, dtype=float)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"an expert heat map needs values [layers, experts]; got shape {values.shape}")
    look = theme(dark)
    num_layers, num_experts = values.shape
    figure = _figure(10, min(7.5, 1.75 + 0.17 * num_layers), look)
    plot = figure.add_axes((0.06, 1.0 / figure.get_figheight(), 0.925, 1 - 1.72 / figure.get_figheight()))
    _title(figure, f"{model}: experts at work",
           f"k = {num_experts_per_tok:.3g} of {num_experts} experts a layer · {_count(num_tokens, 'token')} of {what}"
           + (f" · {where}" if where else ""), look)

    most = float(values.max())
    norm = PowerNorm(POWER, vmin=0, vmax=most if most > 0 else 1)
    mesh = plot.pcolormesh(np.arange(num_experts + 1) - 0.5, np.arange(num_layers + 1) - 0.5,
                           np.ma.masked_equal(values, 0), cmap=look.colours, norm=norm,
                           edgecolors=look.surface, linewidth=0.8)
    plot.set_facecolor(look.none)
    for edge in np.arange(num_experts + 1) - 0.5:  # cells of unused experts, which the mesh leaves out
        plot.axvline(edge, color=look.surface, linewidth=0.8, zorder=0.5)
    for edge in np.arange(num_layers + 1) - 0.5:
        plot.axhline(edge, color=look.surface, linewidth=0.8, zorder=0.5)
    plot.set_xlim(-0.5, num_experts - 0.5)
    plot.set_ylim(num_layers - 0.5, -0.5)
    plot.set_xticks(_steps(num_experts, 16))
    plot.set_yticks(_steps(num_layers, 16))
    plot.set_xlabel("expert")
    plot.set_ylabel("layer")
    _plain(plot, look)
    for side in plot.spines.values():
        side.set_visible(False)

    low = 0.36 / figure.get_figheight()
    bar = figure.add_axes((0.145, low, 0.25, 0.11 / figure.get_figheight()))
    scale = figure.colorbar(mesh, cax=bar, orientation="horizontal")
    scale.outline.set_visible(False)
    uniform = float(values.mean())
    shown = [most] if most > 0 else []
    if 0.1 * most < uniform < 0.8 * most:
        shown.insert(0, uniform)
        bar.axvline(uniform, color=look.text, linewidth=1.2)
    scale.set_ticks(shown, labels=[f"uniform {_number(v)}" if v == uniform and len(shown) > 1 else _number(v)
                                   for v in shown])
    scale.ax.minorticks_off()
    _plain(bar, look)
    bar.tick_params(pad=2)
    figure.text(0.405, low, _cut(clean(unit), 40), color=look.muted, size=8.5, va="bottom", parse_math=False)
    figure.add_artist(Rectangle((0.06, low), 0.012, 0.11 / figure.get_figheight(), facecolor=look.none,
                                edgecolor=look.line, linewidth=0.8))
    figure.text(0.076, low, f"none: {int((values == 0).sum())}", color=look.muted, size=8.5, va="bottom",
                parse_math=False)
    return figure


def routing_summary(mass: np.ndarray, entropy: np.ndarray, *, model: str, num_experts: int, num_experts_per_tok: float,
                    what: str = "the reply", dark: bool = False) -> Figure:
    """Routing mass and routing entropy of each layer: the mean over tokens, and where 80 % of them lie.

    mass: [T, L] in [0, 1]; entropy: [T, L] in nats.
    """
    mass, entropy = np.asarray(mass, dtype=float), np.asarray(entropy, dtype=float)
    if mass.ndim != 2 or mass.shape != entropy.shape or not mass.size:
        raise ValueError(f"a routing summary needs mass and entropy [tokens, layers]; "
                         f"got {mass.shape} and {entropy.shape}")
    look = theme(dark)
    figure = _figure(10, 3.6, look)
    _title(figure, f"{model}: what the routers decided",
           f"k = {num_experts_per_tok:.3g} of {num_experts} experts a layer · {_count(len(mass), 'token')} of {what} · "
           "line: mean, band: 10th to 90th percentile", look)
    uniform_mass, most_entropy = num_experts_per_tok / num_experts, math.log(num_experts)
    panels = [(0.06, mass, "routing mass", uniform_mass, f"all experts alike: {_number(uniform_mass)}", 1.0),
              (0.555, entropy, "routing entropy (nats)", most_entropy, f"all experts alike: {most_entropy:.2f}",
               most_entropy)]
    layers = np.arange(mass.shape[1])
    for left, values, label, reference, note, top in panels:
        plot = figure.add_axes((left, 0.155, 0.43, 0.575), facecolor=look.surface)
        low, high = np.percentile(values, [10, 90], axis=0)
        plot.fill_between(layers, low, high, color=look.accent, alpha=0.22, linewidth=0)
        plot.plot(layers, values.mean(0), color=look.accent, linewidth=1.8, marker="o", markersize=3.2)
        plot.axhline(reference, color=look.muted, linewidth=1, linestyle=(0, (4, 3)))
        under = reference > 0.9 * top
        plot.annotate(note, (0.995, reference), (0, -3 if under else 3), xycoords=("axes fraction", "data"),
                      textcoords="offset points", ha="right", va="top" if under else "bottom", size=8,
                      color=look.muted, parse_math=False,
                      bbox={"facecolor": look.surface, "edgecolor": "none", "pad": 1.5})
        plot.set_ylim(0, top * 1.04)
        plot.yaxis.set_major_locator(MaxNLocator(5))
        plot.set_xlim(-0.5, len(layers) - 0.5)
        plot.set_xticks(_steps(len(layers), 16))
        plot.set_xlabel("layer")
        _panel(plot, label, look)
    return figure


def quality_curves(curves: Mapping[str, Sequence[tuple[int, float]]], speeds: Mapping[int, float], own_k: int, *,
                   model: str, num_tokens: int, what: str = "the reply", hardware: str = "",
                   dark: bool = False) -> Figure:
    """What a text costs: nats a token against k, and against the measured speed.

    curves: name of a weighting -> (k, mean negative log-likelihood in nats a token), ascending; the first is the
    model's own rule and the one drawn against speed. speeds: k -> tokens a second. Lower costs less.
    """
    drawn = {name: points for name, points in curves.items() if points}
    if not drawn:
        raise ValueError("quality curves need at least one measured setting")
    look = theme(dark)
    figure = _figure(10, 4.0, look)
    _title(figure, f"{model}: what k costs on this text",
           f"{_count(num_tokens, 'token')} of {what} · own k = {own_k} · {hardware} · "
           f"{datetime.now(UTC).date().isoformat()}", look)
    colours = (look.accent, "#ffb070" if dark else "#b4530a", look.muted)
    left = figure.add_axes((0.065, 0.145, 0.42, 0.62), facecolor=look.surface)
    right = figure.add_axes((0.565, 0.145, 0.42, 0.62), facecolor=look.surface)
    for (name, points), colour, marker in zip(drawn.items(), colours, "os^", strict=False):
        ks, nats = zip(*points, strict=True)
        left.plot(ks, nats, color=colour, marker=marker, markersize=4.5, linewidth=1.7, label=name)
    all_ks = sorted({k for points in drawn.values() for k, _ in points})
    left.set_xscale("log", base=2)
    left.set_xticks(all_ks, labels=[str(k) for k in all_ks])
    left.minorticks_off()
    left.set_xlabel("active experts (k)")
    left.axvline(own_k, color=look.muted, linewidth=1, linestyle=(0, (4, 3)), zorder=0.5)
    legend = left.legend(frameon=False, fontsize=8.5, loc="upper right")
    for text in legend.get_texts():
        text.set_color(look.text)
    timed = sorted((speeds[k], cost, k) for k, cost in next(iter(drawn.values())) if k in speeds)
    if timed:
        right.plot([t[0] for t in timed], [t[1] for t in timed], color=look.accent, marker="o", markersize=4.5,
                   linewidth=0)
        for rate, cost, k in timed:
            right.annotate(f"k={k}", (rate, cost), (4, 5), textcoords="offset points", size=8, color=look.text)
        right.margins(x=0.12, y=0.14)
    else:
        right.text(0.5, 0.5, "speed was not measured", transform=right.transAxes, ha="center", color=look.muted, size=9)
        right.set_xticks([])
        right.set_yticks([])
    right.set_xlabel(f"decode speed alone, {next(iter(drawn))} (tokens/s)")
    for plot, title in ((left, "nats a token against k"), (right, "nats a token against speed")):
        _panel(plot, title, look)
    return figure


def speed_curves(ks: Sequence[int], curves: Mapping[str, Sequence[float]], *, model: str, hardware: str,
                 dark: bool = False) -> Figure:
    """Decode speed of one request alone against k, both axes logarithmic.

    curves: name -> tokens a second, one for each of `ks`; the first is drawn in the accent colour, "limit" dashed.
    """
    if not ks or any(len(values) != len(ks) for values in curves.values()):
        raise ValueError(f"speed curves need a speed for each of {len(ks)} k")
    look = theme(dark)
    figure = _figure(8, 4.4, look)
    _title(figure, "Decode speed against k, one request alone",  # a model's name can be long
           f"{model} · {hardware} · {datetime.now(UTC).date().isoformat()}", look)
    plot = figure.add_axes((0.09, 0.13, 0.89, 0.66), facecolor=look.surface)
    others = iter([("#ffb070" if dark else "#b4530a", "s"), ("#70caa3" if dark else "#1f7a58", "^"), (look.text, "d")])
    for number, (name, values) in enumerate(curves.items()):
        if name == "limit":
            plot.plot(ks, values, color=look.muted, linewidth=1.3, linestyle=(0, (4, 3)),
                      label="limit: the bytes once, at copy speed")
            continue
        colour, marker = (look.accent, "o") if number == 0 else next(others)
        plot.plot(ks, values, color=colour, marker=marker, markersize=4.5, linewidth=1.7, label=name)
    plot.set_xscale("log", base=2)
    plot.set_yscale("log")
    plot.set_xticks(ks, labels=[str(k) for k in ks])
    plot.yaxis.set_major_formatter(lambda value, _: _number(value))
    plot.yaxis.set_minor_formatter(lambda value, _: _number(value) if str(value)[0] in "25" else "")
    plot.tick_params(which="minor", colors=look.muted, labelsize=8, length=0)
    plot.set_xlabel("active experts (k)")
    legend = plot.legend(frameon=False, fontsize=8.5, loc="upper right")  # where curves that fall leave room
    for text in legend.get_texts():
        text.set_color(look.text)
    _panel(plot, "tokens a second", look)
    return figure


def _panel(plot: Axes, title: str, look: Theme) -> None:
    """The frame of a curve: its title on the left, level lines, and nothing of the box but its floor."""
    plot.set_title(title, loc="left", size=9.5, color=look.text, parse_math=False)
    plot.grid(axis="y", color=look.line, linewidth=0.7)
    plot.set_axisbelow(True)
    _plain(plot, look)
    for name, side in plot.spines.items():
        side.set_visible(name == "bottom")
        side.set_color(look.line)


def to_png(figure: Figure, dpi: int = 160) -> bytes:
    file = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(file, format="png", dpi=dpi, facecolor=figure.get_facecolor(), metadata={"Software": None})
    return file.getvalue()


def to_svg(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="svg", facecolor=figure.get_facecolor(), metadata={"Date": None, "Creator": None})
    return file.getvalue()


def clean(text: str) -> str:
    """`text` on one line and fit for XML: what it forbids (control characters, lone surrogates, U+FFFE/F) is
    replaced, and so is what reorders the text around it."""
    text = re.sub(r"\s+", " ", text)
    return re.sub("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\u202a-\u202e\u2066-\u2069]", "\ufffd", text).strip()


def _figure(width: float, height: float, look: Theme) -> Figure:
    return Figure(figsize=(width, height), facecolor=look.surface)


def _title(figure: Figure, title: str, note: str, look: Theme) -> None:
    height = figure.get_figheight()
    figure.text(0.06, 1 - 0.2 / height, _cut(clean(title), 90), size=12, weight="bold", color=look.text, va="top",
                parse_math=False)
    figure.text(0.06, 1 - 0.45 / height, _cut(clean(note), 130), size=9, color=look.muted, va="top", parse_math=False)


def _plain(plot: Axes, look: Theme) -> None:
    plot.tick_params(colors=look.muted, labelsize=8, length=0)
    plot.xaxis.label.set(color=look.muted, size=9)
    plot.yaxis.label.set(color=look.muted, size=9)


def _steps(count: int, most: int) -> np.ndarray:
    """Ticks 0, s, 2s, ... with s a power of two, at most `most` of them."""
    step = 1
    while count > step * most:
        step *= 2
    return np.arange(0, count, step)


def _number(value: float) -> str:
    if value == int(value) and value < 1e6:
        return str(int(value))
    return f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[:length - 1] + "…"
