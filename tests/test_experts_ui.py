"""The tab Experts without a browser: what its fields ask for, what its view and files are handed, what Stop keeps."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import gradio as gr
import numpy as np
import pytest

from olmoe_space.lab.domain_sample import domains, sample_texts
from olmoe_space.lab.router_analysis import survey_of
from olmoe_space.lab.specialisation import study
from olmoe_space.request import RoutingPolicy
from olmoe_space.settings import Settings
from olmoe_space.survey import Overlap, RoutedText
from olmoe_space.trace import RoutingTrace
from olmoe_space.ui.expert_files import FIGURES, KINDS, maker
from olmoe_space.ui.experts import DOMAINS, STUDY_HEAD, cell_of, value_of
from olmoe_space.ui.muting import load_of, muted
from olmoe_space.ui.studying import HEAD, Studying
from olmoe_space.ui.surveying import OTHER, THIS, Surveying, survey_of_texts

from .scripted import EXPERTS, HOSTILE, INFO, LAYERS, routing

POLICY = RoutingPolicy(8)


def trace(text: str) -> RoutingTrace:
    """A token a word, routed at random."""
    words = text.split()
    made = routing(np.random.default_rng(len(words)), len(words), 8)
    return RoutingTrace(np.arange(len(words)), tuple(f"{w} " for w in words), 0, made.router_logits,
                        made.selected_experts, made.routing_weights, made.active_experts, 8, "raw", 0)


class Jobs:
    """Surveys and studies of texts routed at random; `closed` counts ended computations."""

    def __init__(self) -> None:
        self.asked, self.closed = list[tuple[Any, ...]](), 0

    def __call__(self, name: str, *arguments: Any) -> Iterator[Any]:
        self.asked.append((name, *arguments))
        try:
            yield from getattr(self, name)(*arguments)
        finally:
            self.closed += 1

    def survey(self, texts: list[tuple[str, str]], policy: RoutingPolicy) -> Iterator[Any]:
        for name, text in texts:
            if "refuse" in text:
                raise ValueError("The text has 2,000 tokens. Shorten it.")
            yield survey_of(trace(text), name)
        if len(texts) == 2:
            yield Overlap(texts[0][0], texts[1][0], np.full(LAYERS, 0.25))

    def read_sample(self, domain: str, policy: RoutingPolicy) -> Iterator[RoutedText]:
        for sample in sample_texts(domain)[:4]:
            made = trace(sample.text)
            yield RoutedText(sample.text, domain, sample.topic, made.token_ids, made.texts,
                             np.arange(1, made.num_tokens + 1), made.selected_experts)

    def study(self, texts: list[RoutedText], num_experts: int, with_insights: bool) -> Iterator[Any]:
        yield study(texts, num_experts, with_insights)


def surveyed(*texts: str) -> Surveying:
    made = survey_of_texts(texts[0], texts[1] if len(texts) > 1 else "", POLICY, Settings())
    made.run(Jobs())
    return made


@pytest.fixture(scope="module")
def studied() -> Studying:
    made = Studying(("code", "web"), POLICY, INFO)
    assert list(made.run(Jobs()))
    return made


def test_the_page_names_the_sample_as_it_is() -> None:
    assert DOMAINS == domains()
    assert f">{sum(len(sample_texts(d)) for d in DOMAINS)} short texts of seven domains" in STUDY_HEAD


def test_one_text_or_two_are_surveyed() -> None:
    jobs, one = Jobs(), survey_of_texts("Hello you", "  ", POLICY, Settings())
    one.run(jobs)
    assert jobs.asked == [("survey", [(THIS, "Hello you")], POLICY)] and jobs.closed == 1
    two = surveyed("Hello you", "And you")
    assert [s.name for s in two.surveys] == [THIS, OTHER] and two.overlap is not None
    for text, said in (("  ", "empty"), ("x" * 10**6, "characters")):
        with pytest.raises(ValueError, match=said):
            survey_of_texts(text, "", POLICY, Settings())
    refused = surveyed("refuse this")
    assert refused.refusal == "The text has 2,000 tokens. Shorten it." and refused.state == "done"


def test_the_view_is_handed_ascii_that_holds_everything(studied: Studying) -> None:
    value = value_of(surveyed(f"Hello {HOSTILE}", "And you"), studied)
    assert value.isascii() and "<" not in value
    told = json.loads(value)
    assert told["divergence"] == [0.25] * LAYERS
    assert told["surveys"][0]["pieces"][1] == "<script>window.hacked=1</script> "
    assert np.array(told["surveys"][0]["counts"]).shape == (LAYERS, EXPERTS)
    assert [s["what"] for s in told["study"]["shares"]] == ["domain", "position", "kind"]
    assert len(told["study"]["insights"]) == 5 and not told["study"]["stopped"]
    assert json.loads(value_of(None, None)) == {"doing": "", "asked": id(None), "study": None, "surveys": [],
                                                "divergence": None}


def test_stop_keeps_what_was_read() -> None:
    jobs, made = Jobs(), Studying(DOMAINS, POLICY, INFO)
    doings = made.run(jobs)
    assert next(doings).startswith("Reading code: 0 of 7") and next(doings).startswith("Reading dialogue: 1 of 7")
    made.stop()
    assert "five claims" in next(doings) and not list(doings)
    assert made.stopped and made.state == "done" and made.study is not None
    assert made.study.texts == 5  # the text on its way is kept too
    assert made.shown()["stopped"]  # type: ignore[index]
    waiting = Studying(DOMAINS, POLICY, INFO)
    waiting.stop()
    assert not list(waiting.run(jobs)) and waiting.study is None


def test_a_failure_keeps_what_was_read() -> None:
    class Failing(Jobs):
        def read_sample(self, domain: str, policy: RoutingPolicy) -> Iterator[RoutedText]:
            if domain == "web":
                raise ValueError("The device is gone.")
            yield from super().read_sample(domain, policy)

    made = Studying(("code", "web"), POLICY, INFO)
    list(made.run(Failing()))
    assert made.refusal == "The device is gone." and made.study is not None and made.study.texts == 4


@pytest.mark.parametrize("asked", [None, {}, {"layer": 16, "expert": 0}, {"layer": 0, "expert": "x"}])
def test_a_cell_that_is_not_there_is_refused(asked: Any) -> None:
    with pytest.raises(ValueError, match="whole number"):
        cell_of(asked, INFO)


def read_file(kind: str, which: str, *states: Any) -> bytes:
    with open(maker(kind, INFO, gr.File(render=False))(which, *states), "rb") as file:
        return file.read()


@pytest.mark.parametrize("which", FIGURES)
def test_every_figure_is_drawn(which: str, studied: Studying) -> None:
    svg = read_file("SVG", which, surveyed("Hello you and you"), studied, 3).decode()
    assert "olmoe-tiny" in svg and svg.lstrip().startswith("<?xml")
    with pytest.raises(gr.Error):
        read_file("PNG", which, None, None, 3)


def test_numbers_as_files(studied: Studying) -> None:
    assert KINDS == ("PNG", "SVG", "CSV", "JSON")
    two = surveyed("Hello you", "And you")
    rows = list(csv.reader(io.StringIO(read_file("CSV", "", two, studied, 0).decode())))
    groups = sum(len(s.groups) for s in studied.study.shares)  # type: ignore[union-attr]
    assert tuple(rows[0]) == HEAD and len(rows) == 1 + (2 + groups) * LAYERS * EXPERTS
    told = json.loads(read_file("JSON", "", two, studied, 0))
    assert [s["name"] for s in told["surveys"]] == [THIS, OTHER] and len(told["study"]["insights"]) == 5
    assert len(told["study"]["loyal_tokens"]) == LAYERS
    assert json.loads(read_file("JSON", "", two, None, 0))["study"] is None
    with pytest.raises(gr.Error, match="nothing to download"):
        read_file("CSV", "", None, None, 0)
    with pytest.raises(gr.Error, match="from 0 to 15"):
        read_file("PNG", "Experts at work", two, None, 16)


FIELDS = {"prompt": "Hello", "layer": 3, "expert": 5, "factor": 0, "k": 8, "temperature": 0, "max_new_tokens": 20,
          "seed": "4"}


def test_mute_asks_three_times_with_one_seed(studied: Studying) -> None:
    one = surveyed("Hello you")
    assert load_of(one, None) == (one.surveys[0].counts, "of the 2 of this text")
    load, _ = load_of(one, studied)
    assert load is studied.study.counts  # type: ignore[union-attr]
    comparison, told = muted(FIELDS, load, INFO, Settings())
    columns = comparison.columns
    own, scaled, control = (c.routing for c in columns)
    assert own.expert_scales == () and scaled.expert_scales == ((3, 5, 0.0),)
    ((layer, expert, factor),) = control.expert_scales
    assert (layer, factor) == (3, 0) and expert != 5
    assert abs(load[3, expert] - load[3, 5]) <= 0.25 * load[3, 5]
    assert {c.question.request.sampling.seed for c in columns} == {4}
    assert [c.name for c in columns] == ["as it is", "expert 5 × 0", f"control: expert {expert} × 0"]
    assert f"expert 5 works on {load[3, 5]} tokens" in told and f"expert {expert}, on {load[3, expert]}" in told


@pytest.mark.parametrize(("changed", "said"), [
    ({"layer": 16}, "from 0 to 15"), ({"expert": None}, "from 0 to 63"), ({"factor": 4.5}, "got 4.5"),
    ({"factor": None}, "got None"), ({"prompt": " "}, "empty"), ({"k": 65}, "from 1 to 64")])
def test_what_cannot_be_muted_is_said(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        muted(FIELDS | changed, np.ones((LAYERS, EXPERTS), int), INFO, Settings())


def test_without_a_load_there_is_no_control() -> None:
    with pytest.raises(ValueError, match="Press Survey"):
        load_of(None, None)
