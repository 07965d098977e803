"""The budget of the layers, against every way to share it out and against outputs computed one by one."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from olmoe_space.engine.cache import KeyValueCache
from olmoe_space.engine.engine import Engine
from olmoe_space.engine.forward import forward
from olmoe_space.engine.routing import row_routing
from olmoe_space.events import Prefilled
from olmoe_space.lab.layer_budget import best_ks, layer_errors, settled_request
from olmoe_space.model.structure import weights_of
from olmoe_space.request import GenerationRequest, Message, RoutingPolicy, SamplingParams
from olmoe_space.rules import TokenRule


def test_by_hand() -> None:
    # Layer 0 is done with one expert; layer 1 gains 5 from its second and 1 from its third.
    errors = np.array([[0.2, 0.1, 0.0], [6.0, 1.0, 0.0]])
    assert best_ks(errors, 3, 1, 3) == (1, 2)
    assert best_ks(errors, 4, 1, 3) == (1, 3)
    assert best_ks(errors, 4, 2, 3) == (2, 2)
    with pytest.raises(ValueError, match="from 2 to 6 for 2 layers"):
        best_ks(errors, 7, 1, 3)


def test_no_other_way_to_share_costs_less() -> None:
    errors = np.random.default_rng(0).random((4, 6))
    for budget in range(4, 25):
        ks = best_ks(errors, budget, 1, 6)
        cost = lambda found: sum(errors[i, k - 1] for i, k in enumerate(found))  # noqa: E731
        assert sum(ks) == budget
        assert cost(ks) == pytest.approx(min(cost(w) for w in itertools.product(range(1, 7), repeat=4)
                                             if sum(w) == budget))


@pytest.mark.parametrize("shape", ["plain", "norm_topk_prob"])
def test_errors_are_those_of_the_layers_own_outputs(shape: str, tokenizer: Any) -> None:
    """The first layer reads the same at every k, so that there two whole forwards give the difference."""
    from .fakes import random_olmoe

    model = random_olmoe(shape)
    ids = list(range(40, 60))
    errors = layer_errors(Engine(model, tokenizer), ids)
    weights = weights_of(model)

    def first_layer(k: int) -> torch.Tensor:
        seen: dict[int, torch.Tensor] = {}
        forward(weights, torch.tensor([ids]), KeyValueCache(weights, 1, 20), [0], row_routing(
            [RoutingPolicy(k)], 16, weights.device),
            watch=lambda name, i, value: seen.__setitem__(i, value[0]) if name == "experts_output" else None)
        return seen[0]

    assert errors.shape == (3, 16) and (errors[:, 3] == 0).all()
    for k in (1, 2, 8, 16):
        by_hand = (first_layer(k) - first_layer(4)).norm(dim=-1).sum().item()
        assert errors[0, k - 1] == pytest.approx(by_hand, rel=1e-3)


def test_a_request_is_given_the_ks_that_it_then_runs_with(plain_olmoe: Any, tokenizer: Any) -> None:
    engine = Engine(plain_olmoe, tokenizer)
    policy = RoutingPolicy(k_min=1, k_max=8, rule=TokenRule("layer-budget", 9))
    request = settled_request(engine, GenerationRequest((Message("user", "Hi"),), SamplingParams(0, 1, 2), policy))
    assert request.routing.rule is not None
    ks = request.routing.rule.ks
    assert len(ks) == 3 and sum(ks) == 9 and request.routing.num_experts_per_tok == max(ks)
    [prefilled] = [e for e in engine.stream(request) if isinstance(e, Prefilled)]
    assert (prefilled.routing.active_experts == np.array(ks)).all()
