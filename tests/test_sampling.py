"""Sampling on hand-written distributions over four tokens."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from olmoe_space.engine.sampling import nucleus, sample

PROBS = torch.tensor([0.1, 0.5, 0.15, 0.25])


def draws(temperature: float, top_p: float, n: int = 4000) -> Counter[int]:
    generator = torch.Generator().manual_seed(0)
    return Counter(sample(PROBS.log(), temperature, top_p, generator) for _ in range(n))


def test_greedy_takes_the_largest_and_the_first_of_equals() -> None:
    assert set(draws(0, 1, 20)) == {1}
    assert sample(torch.zeros(4), 0, 1, torch.Generator()) == 0


@pytest.mark.parametrize(("top_p", "kept"), [(0.01, {1}), (0.5, {1}), (0.51, {1, 3}), (0.75, {1, 3}),
                                             (0.76, {1, 3, 2}), (1.0, {0, 1, 2, 3})])
def test_nucleus_is_the_smallest_set_that_reaches_p(top_p: float, kept: set[int]) -> None:
    assert set(nucleus(PROBS, top_p)[1].tolist()) == kept
    assert set(draws(1, top_p)) == kept


def test_frequencies_are_the_probabilities_and_temperature_sharpens() -> None:
    plain, cold = draws(1, 1), draws(0.5, 1)
    for token, p in enumerate(PROBS.tolist()):
        assert plain[token] / 4000 == pytest.approx(p, abs=0.03)
    squared = (PROBS**2 / (PROBS**2).sum()).tolist()
    assert cold[1] / 4000 == pytest.approx(squared[1], abs=0.03)


def test_large_vocabularies_whose_nucleus_exceeds_the_first_look() -> None:
    flat = torch.full((5000,), 1 / 5000)
    assert len(nucleus(flat, 0.9)[1]) == pytest.approx(4500, abs=2)


@pytest.mark.parametrize("temperature", [1e-300, 1e-8, 1e30])
def test_extreme_temperatures_still_draw_a_token(temperature: float) -> None:
    assert 0 <= sample(PROBS.log(), temperature, 0.9, torch.Generator().manual_seed(0)) < 4
