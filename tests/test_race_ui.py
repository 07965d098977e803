"""The race as the tab runs it: what is asked of the model, what is kept when stopped, what can be downloaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from olmoe_space import race_plots
from olmoe_space.race import Run
from olmoe_space.ui.measuring import Text
from olmoe_space.ui.racing import KINDS, Race

from .scripted import INFO

RUNS = [Run("fixed k", 8, np.full((3, 16), 8, np.uint8), np.full(3, 2.0)),
        Run("top-p", 0.4, np.full((3, 16), 5, np.uint8), np.array([1.0, 2.0, 3.0])),
        Run("random", 8, np.full((3, 16), 8, np.uint8), np.full(3, 4.0))]


class Model:
    def __init__(self, fails: bool = False) -> None:
        self.asked: list[Any] = []
        self.ended, self.fails = False, fails

    def job(self, name: str, *arguments: Any) -> Iterator[Run]:
        self.asked.append((name, *arguments))
        try:
            yield from RUNS
            if self.fails:
                raise ValueError("The text is too long.")
        finally:
            self.ended = True


def test_a_typed_text_and_a_reply_are_asked_for_as_what_they_are() -> None:
    model = Model()
    list(Race("The sky <b>is</b> blue.", INFO).run(model.job))
    list(Race(Text("the reply at k=8", (1, 2), (3, 4), ("a", "b")), INFO).run(model.job))
    assert model.asked == [("race_text", "The sky <b>is</b> blue."), ("race", (1, 2), (3, 4))]


def test_every_run_is_told_and_the_last_value_has_them_all() -> None:
    values = [json.loads(v) for v in Race("Hello there", INFO).run(Model().job)]
    assert [len(v["rows"]) for v in values] == [1, 2, 3, 3] and values[0]["doing"] == "1 done, the last k=8"
    last = values[-1]
    assert last["doing"] == "" and not last["stopped"] and last["tokens"] == 3
    assert [(r["policy"], r["mean_k"], r["on_front"]) for r in last["rows"]] == [
        ("k=8", 8.0, False), ("top-p 0.4", 5.0, True), ("random 8", 8.0, False)]
    assert "top-p 0.4 costs 2.000 with 5.00 experts" in last["verdict"]


def test_stop_keeps_what_it_has_and_ends_the_computation() -> None:
    race, model = Race("Hello there", INFO), Model()
    values = race.run(model.job)
    next(values)
    race.stop()
    last = json.loads(list(values)[-1])
    assert last["stopped"] and len(last["rows"]) == len(race.runs) == 2 and model.ended
    assert race.file("CSV").startswith(b"policy,family")
    waiting = Race("Hello there", INFO)
    waiting.stop()
    assert list(waiting.run(model.job)) == [] and len(model.asked) == 1


def test_a_refusal_is_kept_in_words() -> None:
    race = Race("Hello there", INFO)
    list(race.run(Model(fails=True).job))
    assert race.refusal == "The text is too long." and len(race.runs) == 3


@pytest.mark.parametrize("dark", [False, True])
def test_the_figure_shows_every_family_and_the_control_on_its_own(dark: bool) -> None:
    race = Race("Hello there", INFO)
    list(race.run(Model().job))
    figure = race.figure(dark)
    field, control = figure.axes
    assert [line.get_label() for line in field.lines[:3]] == ["fixed k", "top-p", "Pareto front"]
    assert control.lines[0].get_xydata().tolist() == [[8.0, 4.0]] and "random" in control.get_title(loc="left")
    assert field.lines[2].get_xydata().tolist() == [[5.0, 2.0]]


def test_files() -> None:
    race = Race("Hello there", INFO)
    list(race.run(Model().job))
    made = {kind: race.file(kind) for kind in KINDS}
    assert made["PNG"].startswith(b"\x89PNG") and b"<svg" in made["SVG"]
    assert json.loads(made["JSON"])["runs"][1]["mean_nll"] == 2.0
    with pytest.raises(ValueError, match="at least one run"):
        race_plots.race_field({}, None, model="m", num_tokens=0, what="x", control="random")
