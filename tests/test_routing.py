"""The router's rule on a hand-worked layer of four experts, and the three ways to mix experts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from olmoe_space.engine.experts import _all, _by_expert, _gathered, grouped_by_loop
from olmoe_space.engine.routing import row_routing, select_experts
from olmoe_space.model.structure import weights_of
from olmoe_space.request import RoutingPolicy

PROBS = torch.tensor([0.1, 0.4, 0.2, 0.3])
CPU = torch.device("cpu")


def select(*policies: RoutingPolicy, default_k: int = 2, norm: bool = False) -> tuple[list, list]:
    logits = PROBS.log().expand(len(policies), 1, 4)
    weights, experts = select_experts(logits, row_routing(policies, 4, CPU), default_k, norm)
    return weights[:, 0].tolist(), experts[:, 0].tolist()


@pytest.mark.parametrize(("k", "weighting", "expected"), [
    (1, "raw", [0.4]), (2, "raw", [0.4, 0.3]), (3, "raw", [0.4, 0.3, 0.2]),
    (1, "renormalised", [1.0]), (2, "renormalised", [4 / 7, 3 / 7]), (4, "renormalised", [0.4, 0.3, 0.2, 0.1]),
    (1, "mass_preserving", [0.7]), (2, "mass_preserving", [0.4, 0.3]),
    (3, "mass_preserving", [0.7 * 4 / 9, 0.7 * 3 / 9, 0.7 * 2 / 9]),
])
def test_weights_by_hand(k: int, weighting: Any, expected: list[float]) -> None:
    weights, experts = select(RoutingPolicy(k, weighting))
    assert experts[0] == [1, 3, 2, 0][:k]
    assert weights[0] == pytest.approx(expected)


def test_rows_of_one_batch_keep_their_own_k_and_weighting() -> None:
    rows = [RoutingPolicy(1), RoutingPolicy(3, "renormalised"), RoutingPolicy(2, "mass_preserving")]
    weights, experts = select(*rows)
    assert weights[0] == pytest.approx([0.4, 0, 0])
    assert weights[1] == pytest.approx([4 / 9, 3 / 9, 2 / 9])
    assert weights[2] == pytest.approx([0.4, 0.3, 0])
    assert experts == [[1, 3, 2]] * 3


def test_a_model_that_normalises_does_so_at_every_k() -> None:
    for weighting in ("raw", "renormalised", "mass_preserving"):
        assert select(RoutingPolicy(2, weighting), norm=True)[0][0] == pytest.approx([4 / 7, 3 / 7])


@pytest.mark.parametrize("k", [1, 4, 16])
def test_the_three_ways_to_mix_experts_agree(plain_olmoe: Any, k: int) -> None:
    model = weights_of(plain_olmoe)
    layer = model.layers[0]
    x = torch.randn(7, 64, generator=torch.Generator().manual_seed(0))
    weights, experts = torch.rand(7, 16, generator=torch.Generator().manual_seed(1)).topk(k)
    many = _by_expert(x, weights, experts, layer, model)
    for n in range(7):
        one = (x[n:n + 1], weights[n:n + 1], experts[n:n + 1], layer, model)
        by_hand = sum(w * _expert(x[n], int(e), layer) for w, e in zip(weights[n], experts[n], strict=True))
        for found in (_gathered(*one)[0], _all(*one)[0], many[n]):
            torch.testing.assert_close(found, by_hand, atol=1e-4, rtol=1e-4)


def test_the_loop_for_old_gpus_is_the_grouped_product() -> None:
    rows, matrices = torch.randn(10, 16), torch.randn(4, 16, 8)
    ends = torch.tensor([3, 3, 9, 10], dtype=torch.int32)
    torch.testing.assert_close(grouped_by_loop(rows, matrices.transpose(1, 2), ends),
                               torch.nn.functional.grouped_mm(rows, matrices, offs=ends))


def _expert(x: torch.Tensor, e: int, layer: Any) -> torch.Tensor:
    gate, up = (layer.gate_up_proj[e] @ x).chunk(2)
    return layer.down_proj[e] @ (torch.nn.functional.silu(gate) * up)
