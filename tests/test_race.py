"""The race against independent forwards of stock transformers, and its rows and front by hand."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np
import pytest
import torch

from olmoe_space.engine.engine import Engine
from olmoe_space.lab.race import entrants, race, race_text
from olmoe_space.race import Run, as_csv, as_rows, as_table, pareto_front, verdict
from olmoe_space.request import RoutingPolicy
from olmoe_space.rules import TokenRule

from .test_exactness import stock_with


def run(family: str, parameter: float, k: int, nll: float) -> Run:
    return Run(family, parameter, np.full((2, 3), k, np.uint8), np.full(2, nll))


# The own k costs 2.0 with 8; top-p the same with 6; random 2.5 with 8; k=4 is cheaper to run and dearer.
RUNS = [run("fixed k", 8, 8, 2.0), run("fixed k", 4, 4, 2.2), run("top-p", 0.4, 6, 2.0), run("random", 8, 8, 2.5)]


def test_front_and_verdict_by_hand() -> None:
    assert pareto_front(RUNS) == [False, True, True, False]
    assert pareto_front([RUNS[0], RUNS[0]]) == [True, True], "two alike do not beat each other"
    said = verdict(RUNS, 8)
    assert "k=8 costs 2.000" in said and "top-p 0.4 costs 2.000 with 6.00 experts" in said and "+0.500" in said
    assert "No run with fewer experts" in verdict(RUNS[:2], 8) and verdict(RUNS[1:], 8) == ""


def test_rows_csv_and_table() -> None:
    rows = as_rows(RUNS, 8)
    assert rows[1] == {"policy": "k=4", "family": "fixed k", "parameter": 4, "tokens": 2, "mean_k": 4.0,
                       "mean_nll": 2.2, "change_nll": 0.2, "on_front": True}
    read = list(csv.DictReader(io.StringIO(as_csv(RUNS, 8))))
    assert [r["policy"] for r in read] == ["k=8", "k=4", "top-p 0.4", "random 8"] and read[3]["change_nll"] == "0.5"
    assert as_rows(RUNS[1:], 8)[0]["change_nll"] is None
    assert as_table(RUNS, 8).splitlines()[1].startswith("k=4")


def test_everyone_runs_and_fits_the_model() -> None:
    policies = entrants(16, 64, 8)
    assert policies[0] == RoutingPolicy(8) and len(policies) == len(set(policies)) > 25
    assert {p.rule.name for p in policies if p.rule} == {"top-p", "relative-skip", "entropy", "layer-budget", "random"}
    assert all(int(p.num_experts_per_tok) <= 11 for p in entrants(3, 11, 3))


def test_nll_and_k_equal_those_of_stock_and_of_the_probabilities(plain_olmoe: Any, tokenizer: Any) -> None:
    tokens = torch.randint(0, 256, (1, 30), generator=torch.Generator().manual_seed(2))
    every = RoutingPolicy(k_min=1, k_max=16, rule=TokenRule("top-p", 1.0))  # takes all 16, or all but rounding's last
    everyone = [RoutingPolicy(4), RoutingPolicy(7), RoutingPolicy(k_min=16, k_max=16, rule=TokenRule("random", 16)),
                every, RoutingPolicy(k_min=1, k_max=16, rule=TokenRule("top-p", 0.6))]
    runs = list(race(Engine(plain_olmoe, tokenizer), tokens[0, :10].tolist(), tokens[0, 10:].tolist(), everyone))
    with torch.no_grad():
        for found, k in zip(runs, (4, 7, 16), strict=False):
            logits = stock_with(plain_olmoe, k)(tokens[:, :-1]).logits
            nll = torch.nn.functional.cross_entropy(logits[0, 9:], tokens[0, 10:], reduction="none")
            assert found.nll == pytest.approx(nll.numpy(), abs=1e-4) and found.mean_k == k
        assert runs[3].nll == pytest.approx(runs[2].nll, abs=1e-3)
    assert runs[4].active.shape == (20, 3) and 1 <= runs[4].mean_k < 16


def test_the_whole_race_on_a_text(plain_olmoe: Any, tokenizer: Any) -> None:
    engine = Engine(plain_olmoe, tokenizer)
    runs = list(race_text(engine, "The sky is blue."))
    assert len(runs) == len(entrants(3, 16, 4)) and runs[0].name == "k=4" and runs[0].nll.size == 15
    again = [r.mean_nll for r in race_text(engine, "The sky is blue.")]
    assert again == [r.mean_nll for r in runs], "the control's draws are the same each time"
    for wrong in ("", "x"):
        with pytest.raises(ValueError, match="nothing to measure"):
            next(race_text(engine, wrong))
