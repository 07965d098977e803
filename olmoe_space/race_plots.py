"""The figure of a race of routing policies, in the style of plots.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .plots import _count, _figure, _panel, _title, theme


def race_field(families: Mapping[str, Sequence[tuple[str, float, float, bool]]], own: tuple[float, float] | None, *,
               model: str, num_tokens: int, what: str, control: str, hardware: str = "", dark: bool = False) -> Figure:
    """Routing policies over one text: what it cost in nats a token against the experts that worked on a token.

    families: a policy's name -> (label, mean k, mean nats, whether nothing else is ahead) of each of its runs. own:
    (k, nats) of the model's own k. control: the family that is drawn beside the field, not in it.
    """
    if not any(families.values()):
        raise ValueError("a race needs at least one run")
    look = theme(dark)
    figure = _figure(10, 6.0, look)
    _title(figure, f"{model}: routing policies, experts against nats",
           f"{_count(num_tokens, 'token')} of {what} · {hardware} · {datetime.now(UTC).date().isoformat()}", look)
    field = figure.add_axes((0.065, 0.095, 0.72, 0.5), facecolor=look.surface)
    beside = figure.add_axes((0.065, 0.685, 0.72, 0.17), facecolor=look.surface, sharex=field)
    colours = ("#8ab4ff", "#ffb070", "#6fd3a8", "#e59ad8", "#e8d36b") if dark else (
        "#2f5fd0", "#b4530a", "#137a52", "#97308a", "#7a6a00")  # apart in lightness too; the marker tells as well
    shapes = iter(zip(colours, "osD^P", strict=True))
    for name, runs in families.items():
        points = sorted((k, nats) for _, k, nats, _ in runs)
        if not points:
            continue
        if name == control:
            beside.plot(*zip(*points, strict=True), color=look.muted, marker="x", markersize=5.5, linewidth=1,
                        linestyle=(0, (4, 3)))
        else:
            colour, marker = next(shapes)
            field.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=5.5, linewidth=1, label=name)
    front = sorted((k, nats) for runs in families.values() for _, k, nats, ahead in runs if ahead)
    field.plot(*zip(*front, strict=True), color=look.text, linewidth=0, marker="o", markersize=11, fillstyle="none",
               markeredgewidth=1.3, label="Pareto front")
    if own is not None:
        field.axhline(own[1], color=look.muted, linewidth=1, linestyle=(0, (1, 3)), zorder=0.5)
        field.annotate(f"own k = {own[0]:g}: {own[1]:.3f}", (0.995, own[1]), (0, 3), ha="right", size=8,
                       xycoords=("axes fraction", "data"), textcoords="offset points", color=look.muted)
    ks = [k for runs in families.values() for _, k, _, _ in runs]
    marks = [2**i for i in range(8) if min(ks) / 2 <= 2**i <= max(ks) * 1.01]
    field.set_xscale("log", base=2)
    field.set_xticks(marks, labels=[str(k) for k in marks])
    field.minorticks_off()
    field.set_xlabel("active experts (mean k over tokens and layers)")
    beside.tick_params(labelbottom=False)
    beside.yaxis.set_major_locator(MaxNLocator(3))
    _panel(field, "policies: nats a token (lower costs less)", look)
    _panel(beside, f"control, on a scale of its own: {control} experts, nats a token", look)
    for text in field.legend(frameon=False, fontsize=8.5, loc="upper left", bbox_to_anchor=(1.01, 1)).get_texts():
        text.set_color(look.text)
    return figure
