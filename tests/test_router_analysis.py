"""What the routers did, on arrays small enough to work out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from olmoe_space.lab.router_analysis import (
    coefficient_of_variation,
    expert_counts,
    jensen_shannon,
    mass_at,
    max_over_mean,
    pair_counts,
    survey_of,
)
from olmoe_space.survey import equal_load
from olmoe_space.trace import RoutingTrace

# One layer, four experts, three tokens of two experts each.
SELECTED = np.array([[[0, 1]], [[0, 2]], [[1, 0]]], dtype=np.uint8)


def test_counts_and_imbalance() -> None:
    counts = expert_counts(SELECTED, 4)
    assert counts.tolist() == [[3, 2, 1, 0]] and counts.sum() == 3 * 2
    assert max_over_mean(counts).tolist() == [2.0]  # 3 / 1.5
    # deviations 1.5, .5, -.5, -1.5: variance 5 / 4
    assert coefficient_of_variation(counts) == pytest.approx([np.sqrt(1.25) / 1.5])


def test_imbalance_of_equal_loads_and_of_nothing() -> None:
    loads = np.array([[2, 2, 2], [0, 0, 0]])
    assert max_over_mean(loads).tolist() == [1, 0] and coefficient_of_variation(loads).tolist() == [0, 0]


def test_pairs_are_all_pairs_of_the_selected_set() -> None:
    pairs = pair_counts(SELECTED, 4)
    assert pairs[0].tolist() == [[3, 2, 1, 0], [2, 2, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    three = pair_counts(np.array([[[3, 0, 2]]]), 4)[0]
    assert three[0, 2] == three[0, 3] == three[2, 3] == 1 and three.sum() == 9  # also the second with the third


def test_co_activation_by_hand() -> None:
    shares = survey_of(trace(0), "all").co_activation(0)
    assert shares[0] == pytest.approx([1, 2 / 3, 1 / 3, 0])  # 0 works on three tokens, with 1 on two, with 2 on one
    assert shares[2].tolist() == [1, 0, 1, 0] and shares[3].tolist() == [0, 0, 0, 0]


def test_mass_is_that_of_the_most_probable() -> None:
    probs = np.array([[[0.1, 0.4, 0.2, 0.3]]])
    found = mass_at(probs, (1, 2, 4, 8))
    assert list(found) == [1, 2, 4]
    assert [float(m[0, 0]) for m in found.values()] == pytest.approx([0.4, 0.7, 1.0])


def test_jensen_shannon_by_hand() -> None:
    a, b = np.array([[4, 4, 0, 0]]), np.array([[0, 0, 2, 2]])
    assert jensen_shannon(a, b).tolist() == [1] and jensen_shannon(a, 3 * a).tolist() == [0]
    # P = (1, 0), Q = (1/2, 1/2): M = (3/4, 1/4); H(M) = .811278, H(Q) = 1
    assert jensen_shannon(np.array([[2, 0]]), np.array([[1, 1]])) == pytest.approx([0.811278 - 0.5], abs=1e-6)


@pytest.mark.parametrize(("other", "said"), [(np.zeros((1, 4)), "without tokens"), (np.ones((2, 4)), "one model")])
def test_loads_that_cannot_be_compared(other: np.ndarray, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        jensen_shannon(np.ones((1, 4)), other)


def trace(prompt_tokens: int, active: int = 2) -> RoutingTrace:
    logits = np.log(np.array([[[.5, .3, .1, .1]], [[.4, .2, .3, .1]], [[.4, .4, .1, .1]]], dtype=np.float32))
    return RoutingTrace(np.arange(3), ("a", "b", "c"), prompt_tokens, logits, SELECTED,
                        np.ones((3, 1, 2), np.float32), np.full((3, 1), active, np.uint8), 2, "raw", 0)


def test_a_survey_tells_one_phase() -> None:
    told = survey_of(trace(1), "the reply", "decode")
    assert told.pieces == ("b", "c") and told.counts.tolist() == [[2, 1, 1, 0]]
    assert told.never_fired == [[3]] and told.pair_counts[0, 0].tolist() == [2, 1, 1, 0]
    entropies = [-sum(p * np.log(p) for p in row) for row in ((.4, .2, .3, .1), (.4, .4, .1, .1))]
    assert told.entropy == pytest.approx([np.mean(entropies)], abs=1e-6)
    assert survey_of(trace(1), "all").counts.tolist() == [[3, 2, 1, 0]]
    with pytest.raises(ValueError, match="no token"):
        survey_of(trace(3), "nothing", "decode")


def test_only_experts_that_worked_are_counted() -> None:
    told = survey_of(trace(0, active=1), "the text")
    assert told.counts.tolist() == [[2, 1, 0, 0]] and told.mean_k == 1 and told.num_experts_per_tok == 2
    assert told.pair_counts[0].tolist() == [[2, 0, 0, 0], [0, 1, 0, 0], [0] * 4, [0] * 4]
    assert told.selected_experts[:, 0].tolist() == [[0, 255], [0, 255], [1, 255]]


def test_a_control_has_about_the_same_load() -> None:
    counts = np.array([100, 90, 300, 110, 5, 0])
    drawn = {equal_load(counts, 0, seed) for seed in range(30)}
    assert drawn == {1, 3}  # within a quarter of 100, and never the expert itself
    assert equal_load(counts, 0, 7) == equal_load(counts, 0, 7)
    assert equal_load(counts, 2, 0) == 3  # nobody near: the nearest
    with pytest.raises(ValueError, match="only one"):
        equal_load(np.array([3]), 0, 0)
