"""Figures: what they show, that no text in them is read as anything else, and that their bytes are stable."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from olmoe_space import plots

HOSTILE = "$\\alpha$ <script>alert(1)</script> & {{7*7}} ${alert(1)} \x00\x07 \ud800 שלום \u202e end"


def counts(num_layers: int = 16, num_experts: int = 64, tokens: int = 96, k: int = 8) -> np.ndarray:
    rng = np.random.default_rng(0)
    likely = 1 / np.arange(1, num_experts + 1)
    made = np.zeros((num_layers, num_experts), int)
    for layer in range(num_layers):
        for _ in range(tokens):
            made[layer, rng.choice(num_experts, k, replace=False, p=likely / likely.sum())] += 1
    return made


def heatmap(values: Any = None, **options: Any) -> Any:
    options = {"model": "olmoe-tiny", "num_experts_per_tok": 8, "num_tokens": 96} | options
    return plots.expert_heatmap(counts() if values is None else values, **options)


def summary(**options: Any) -> Any:
    rng = np.random.default_rng(1)
    options = {"model": "olmoe-tiny", "num_experts": 64, "num_experts_per_tok": 8} | options
    return plots.routing_summary(rng.uniform(0.3, 0.8, (50, 16)), rng.uniform(1, 4, (50, 16)), **options)


def svg_texts(figure: Any) -> str:
    """All text of the figure's SVG, which must parse."""
    return "".join(ElementTree.fromstring(plots.to_svg(figure)).itertext())


def test_heatmap_says_what_it_shows() -> None:
    texts = svg_texts(heatmap(num_tokens=96, what="the prompt"))
    for words in ("olmoe-tiny", "k = 8 of 64", "96 tokens of the prompt", "tokens per expert", "layer", "expert",
                  f"none: {(counts() == 0).sum()}", str(counts().max()), "uniform 12"):
        assert words in texts, words


def test_heatmap_colours_follow_the_counts() -> None:
    values = np.zeros((2, 4))
    values[1, 2] = 7
    values[0, 1] = 1
    (mesh,) = [c for c in heatmap(values).axes[0].collections]
    drawn = mesh.get_array().reshape(2, 4)
    assert drawn[1, 2] == 7 and drawn[0, 1] == 1
    assert drawn.mask.sum() == 6  # unused experts have no colour of the scale


def test_layer_0_is_on_top_and_every_cell_is_in_view() -> None:
    plot = heatmap().axes[0]
    assert plot.get_ylim() == (15.5, -0.5) and plot.get_xlim() == (-0.5, 63.5)


@pytest.mark.parametrize("shape", [(1, 2), (4, 8), (16, 64), (48, 128)])
@pytest.mark.parametrize("dark", [False, True])
def test_any_shape_in_either_theme(shape: tuple[int, int], dark: bool) -> None:
    values = np.arange(np.prod(shape)).reshape(shape)
    assert plots.to_png(heatmap(values, dark=dark), dpi=50).startswith(b"\x89PNG")


def test_nothing_computed_is_drawn_as_nothing() -> None:
    assert "none: 1024" in svg_texts(heatmap(np.zeros((16, 64)), num_tokens=0))


@pytest.mark.parametrize("values", [np.zeros(3), np.zeros((0, 4)), np.zeros((2, 3, 4))])
def test_heatmap_refuses_other_shapes(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="layers, experts"):
        heatmap(values)


def test_summary_says_what_it_shows() -> None:
    texts = svg_texts(summary())
    for words in ("50 tokens of the reply", "routing mass", "routing entropy (nats)", "percentile", "alike: 4.16"):
        assert words in texts, words


def test_summary_of_one_token_and_of_all_experts() -> None:
    one = np.ones((1, 3))
    figure = plots.routing_summary(one, 1.2 * one, model="m", num_experts=4, num_experts_per_tok=4)
    assert plots.to_png(figure, dpi=50)


@pytest.mark.parametrize("mass, entropy", [((0, 3), (0, 3)), ((2, 3), (3, 2)), ((4,), (4,))])
def test_summary_refuses_other_shapes(mass: tuple[int, ...], entropy: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="tokens, layers"):
        plots.routing_summary(np.zeros(mass), np.zeros(entropy), model="m", num_experts=4, num_experts_per_tok=1)


@pytest.mark.parametrize("make", [heatmap, summary])
def test_text_is_never_markup_nor_maths(make: Any) -> None:
    figure = make(model=HOSTILE, what=HOSTILE)
    svg = plots.to_svg(figure).decode("utf-8")
    root = ElementTree.fromstring(svg)
    assert not [node for node in root.iter() if node.tag.endswith("script")]
    texts = "".join(root.itertext())
    assert "$\\alpha$ <script>alert(1)</script> & {{7*7}}" in texts
    assert not re.search("[\x00-\x08\ud800-\udfff\u202e]", texts)
    assert plots.to_png(figure, dpi=50)


@pytest.mark.parametrize("make", [heatmap, summary])
@pytest.mark.parametrize("export", [plots.to_png, plots.to_svg])
def test_same_figure_same_bytes(make: Any, export: Any) -> None:
    assert export(make()) == export(make())


def test_svg_has_no_date_and_asks_for_nothing() -> None:
    svg = plots.to_svg(heatmap()).decode()
    assert "<dc:date>" not in svg
    assert not re.search(r'(?:href|src)="http', svg)


@pytest.mark.parametrize("dark", [False, True])
def test_colours_are_monotone_in_lightness(dark: bool) -> None:
    rgb = plots.theme(dark).colours(np.linspace(0, 1, 256))[:, :3]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    steps = np.diff(luminance)
    assert (steps > 0).all() if dark else (steps < 0).all()


def test_colours_are_those_of_the_live_view() -> None:
    script = (Path(plots.__file__).parents[1] / "assets" / "live_view" / "scale.js").read_text()
    for name, dark in (("light", False), ("dark", True)):
        listed = re.search(rf"{name}: \[(.*?)\]", script)
        assert listed and re.findall(r"#\w{6}", listed[1]) == plots.STOPS[dark]
    assert f"const POWER = {plots.POWER};" in script


def test_pyplot_stays_out() -> None:
    code = "import sys, olmoe_space.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
