"""The router's rule on a hand-worked layer of four experts, and the three ways to mix experts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from olmoe_space.engine.cache import KeyValueCache
from olmoe_space.engine.experts import _all, _by_expert, _gathered, grouped_by_loop
from olmoe_space.engine.forward import StepOutput, forward
from olmoe_space.engine.routing import Selected, row_routing, select_experts
from olmoe_space.model.structure import weights_of
from olmoe_space.request import RoutingPolicy
from olmoe_space.rules import TokenRule, parse

PROBS = torch.tensor([0.1, 0.4, 0.2, 0.3])
CPU = torch.device("cpu")


def select(*policies: RoutingPolicy, default_k: int = 2, norm: bool = False) -> tuple[list, list]:
    logits = PROBS.log().expand(len(policies), 1, 4)
    weights, experts, _ = select_experts(logits, row_routing(policies, 4, CPU), 0, torch.zeros(len(policies), 1),
                                         default_k, norm)
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


# Policies that vary. One layer of four experts, whose probabilities are .4 (expert 1), .3 (3), .2 (2), .1 (0).

def chosen(*policies: RoutingPolicy, logits: torch.Tensor | None = None, layer: int = 0, seeds: list[int] | None = None,
           positions: torch.Tensor | None = None) -> Selected:
    rows = row_routing(policies, 4, CPU, 2, seeds)
    logits = PROBS.log().expand(len(policies), 1, 4) if logits is None else logits
    positions = torch.zeros(logits.shape[:2], dtype=torch.int64) if positions is None else positions
    return select_experts(logits, rows, layer, positions, 2, False)


def varying(rule: str, k_min: int = 1, k_max: int = 4, weighting: Any = "raw", **fields: Any) -> RoutingPolicy:
    return RoutingPolicy(weighting=weighting, k_min=k_min, k_max=k_max, rule=parse(rule), **fields)


@pytest.mark.parametrize(("policy", "k"), [
    (varying("top-p:0.35"), 1),           # .4 reaches it
    (varying("top-p:0.65"), 2),           # .4 + .3
    (varying("top-p:0.85"), 3),
    (varying("top-p:1"), 4),
    (varying("top-p:0.35", k_min=2), 2),
    (varying("top-p:1", k_max=3), 3),
    (varying("relative-skip:0.8"), 1),    # .3 < .8 x .4
    (varying("relative-skip:0.7"), 2),    # .3 >= .28 > .2
    (varying("relative-skip:0.4"), 3),    # .2 >= .16 > .1
    (varying("relative-skip:0"), 4),
    (varying("relative-skip:0.8", k_min=3), 3),
    (varying("relative-skip:0", k_max=2), 2),
    # H = .4 ln 2.5 + .3 ln 10/3 + .2 ln 5 + .1 ln 10 = 1.2799; / ln 4 = 0.9232
    (varying("entropy:0.8"), 3),          # 1 + 3 x .1232 / .16 = 3.31
    (varying("entropy:0.95"), 1),
    (varying("entropy:0.7"), 4),
    (varying("entropy:0.85", k_min=2), 3),  # 2 + 2 x .0732 / .16 = 2.92
])
def test_the_k_of_a_token_by_hand(policy: RoutingPolicy, k: int) -> None:
    found = chosen(policy)
    assert found.active.item() == k
    assert found.experts[0, 0, :k].tolist() == [1, 3, 2, 0][:k]
    assert found.weights[0, 0].tolist() == pytest.approx(([0.4, 0.3, 0.2, 0.1][:k] + [0] * 4)[:policy_width(policy)])


def policy_width(policy: RoutingPolicy) -> int:
    return int(policy.num_experts_per_tok)


def test_weightings_of_a_varying_k_by_hand() -> None:
    assert chosen(varying("top-p:0.85", weighting="renormalised")).weights[0, 0].tolist() == pytest.approx(
        [4 / 9, 3 / 9, 2 / 9, 0])
    assert chosen(varying("top-p:0.85", weighting="mass_preserving")).weights[0, 0].tolist() == pytest.approx(
        [0.7 * 4 / 9, 0.7 * 3 / 9, 0.7 * 2 / 9, 0])


def test_a_layer_budget_gives_each_layer_its_own_k() -> None:
    policy = RoutingPolicy(k_min=1, k_max=4, rule=TokenRule("layer-budget", 4, (1, 3)))
    assert policy.num_experts_per_tok == 3
    assert [chosen(policy, layer=i).active.item() for i in (0, 1)] == [1, 3]
    with pytest.raises(ValueError, match="has 2"):
        chosen(RoutingPolicy(k_min=1, k_max=4, rule=TokenRule("layer-budget", 4, (1, 2, 1))))
    with pytest.raises(ValueError, match="must be given"):
        chosen(varying("layer-budget:4"))


def test_random_experts_are_drawn_evenly_and_keep_the_routers_weights() -> None:
    policy, many = varying("random:2"), 4000
    logits = PROBS.log().expand(1, many, 4)
    found = chosen(policy, logits=logits, positions=torch.arange(many)[None], seeds=[5])
    torch.testing.assert_close(found.weights, PROBS[found.experts], atol=1e-6, rtol=1e-5)
    assert (found.active == 2).all() and (found.weights[..., 0] > found.weights[..., 1]).all()
    pairs = torch.bincount((found.experts.sort(-1).values * torch.tensor([4, 1])).sum(-1)[0], minlength=12)
    assert [int(pairs[i]) for i in (1, 2, 3, 6, 7, 11)] == pytest.approx([many / 6] * 6, rel=0.15)
    again = chosen(policy, logits=logits[:, :10], positions=torch.arange(7, 17)[None], seeds=[5])
    assert torch.equal(again.experts, found.experts[:, 7:17]), "a draw hangs on the position, not on the forward"
    for other in (chosen(policy, logits=logits, positions=torch.arange(many)[None], seeds=[6]),
                  chosen(policy, logits=logits, positions=torch.arange(many)[None], seeds=[5], layer=1)):
        same = float((other.experts[..., 0] == found.experts[..., 0]).float().mean())
        assert same == pytest.approx(1 / 4 + 1 / 9 + 1 / 36, abs=0.04), "independent draws, each led by 1, 3 or 2"


def test_scales_by_hand() -> None:
    boosted = chosen(RoutingPolicy(2, expert_scales=[(0, 3, 2), (0, 0, 4), (1, 1, 0)]))
    assert boosted.weights[0, 0].tolist() == pytest.approx([0.4, 0.6]) and boosted.active.item() == 2
    muted = chosen(RoutingPolicy(3, "renormalised", expert_scales=[(0, 3, 0)]))
    assert muted.active.item() == 2 and muted.experts[0, 0].tolist() == [1, 2, 3]
    assert muted.weights[0, 0].tolist() == pytest.approx([4 / 9, 2 / 9, 0]), "the others keep their weights"
    all_muted = chosen(RoutingPolicy(1, expert_scales=[(0, 1, 0)]))
    assert all_muted.active.item() == 0 and all_muted.weights.sum() == 0
    with pytest.raises(ValueError, match="expert 4 of layer 0"):
        chosen(RoutingPolicy(1, expert_scales=[(0, 4, 0)]))


EVERY_KIND = [
    RoutingPolicy(5), RoutingPolicy(3, "renormalised"), varying("top-p:0.85", 1, 9),
    varying("relative-skip:0.3", 1, 12),
    varying("top-p:0.7", 1, 16, "mass_preserving"), varying("entropy:0.6", 2, 11), varying("random:6", 1, 16),
    RoutingPolicy(k_min=1, k_max=8, rule=TokenRule("layer-budget", 9, (1, 6, 2))),
    RoutingPolicy(4, expert_scales=[(0, 3, 0), (1, 5, 2.5), (2, 7, 0)]),
    varying("top-p:0.6", 1, 16, expert_scales=[(1, e, 0) for e in range(8)])]


def run(model: Any, ids: torch.Tensor, policies: list[RoutingPolicy], cuts: list[int]) -> StepOutput:
    weights = weights_of(model)
    rows = row_routing(policies, 16, CPU, 3, [EVERY_KIND.index(p) for p in policies])
    cache = KeyValueCache(weights, len(policies), ids.shape[1])
    steps = [forward(weights, part.expand(len(policies), -1), cache, list(range(len(policies))), rows, all_logits=True)
             for part in ids.split(cuts, 1)]
    return StepOutput(*(torch.cat([getattr(s, name) for s in steps], 1) for name in vars(steps[0])))


def test_rows_of_every_kind_in_one_batch_give_what_each_gives_alone(plain_olmoe: Any) -> None:
    """And in other pieces: the batch in one forward, the row alone token by token at its end."""
    ids = torch.randint(0, 256, (1, 20), generator=torch.Generator().manual_seed(3))
    together = run(plain_olmoe, ids, EVERY_KIND, [20])
    for i, policy in enumerate(EVERY_KIND):
        alone, k = run(plain_olmoe, ids, [policy], [13, 5, 1, 1]), policy_width(policy)
        assert torch.equal(together.active_experts[i], alone.active_experts[0]), policy
        active = torch.arange(k) < alone.active_experts[0, ..., None]
        assert torch.equal(together.selected_experts[i, ..., :k][active], alone.selected_experts[0][active]), policy
        torch.testing.assert_close(together.logits[i], alone.logits[0], atol=1e-3, rtol=1e-4)
    assert len(set(together.active_experts[2].flatten().tolist())) > 2, "k must vary for this to show anything"


def test_muting_an_expert_takes_its_contribution_away_and_nothing_else(plain_olmoe: Any) -> None:
    """Against a direct computation: the layer's output less weight x SwiGLU of the muted expert."""
    model, ids = weights_of(plain_olmoe), torch.randint(0, 256, (1, 12), generator=torch.Generator().manual_seed(4))

    def last_layer(policy: RoutingPolicy) -> tuple[StepOutput, torch.Tensor, torch.Tensor]:
        seen: dict[str, torch.Tensor] = {}
        step = forward(model, ids, KeyValueCache(model, 1, 12), [0], row_routing([policy], 16, CPU, 3), all_logits=True,
                       watch=lambda name, layer, value: seen.__setitem__(f"{name} {layer}", value[0]))
        return step, seen["experts_input 2"], seen["experts_output 2"]

    whole, x, out = last_layer(RoutingPolicy(5))
    for factor in (0.0, 2.5):
        expert = int(whole.selected_experts[0, -1, 2, 1])
        step, _, changed = last_layer(RoutingPolicy(5, expert_scales=[(2, expert, factor)]))
        for t in range(12):
            at = (whole.selected_experts[0, t, 2] == expert).nonzero()
            weight = float(whole.routing_weights[0, t, 2, at[0, 0]]) if len(at) else 0.0
            by_hand = out[t] + (factor - 1) * weight * _expert(x[t], expert, model.layers[2])
            torch.testing.assert_close(changed[t], by_hand, atol=1e-4, rtol=1e-4)
            assert int(step.active_experts[0, t, 2]) == 5 - (len(at) > 0 and factor == 0)


def _expert(x: torch.Tensor, e: int, layer: Any) -> torch.Tensor:
    gate, up = (layer.gate_up_proj[e] @ x).chunk(2)
    return layer.down_proj[e] @ (torch.nn.functional.silu(gate) * up)
