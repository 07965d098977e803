"""The compiled CPU loops: the same bits alone, in a crowd and for any cut of a prompt; what they refuse.

That their tokens are stock's is in test_exactness.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from olmoe_space.engine.backend import BackendUnavailable, choose_kernels
from olmoe_space.engine.cpu.kernels import CpuKernels
from olmoe_space.engine.kernels import LaneRequest, Step
from olmoe_space.engine.proof import prove
from olmoe_space.request import RoutingPolicy, SamplingParams

from .fakes import random_olmoe

IDS = torch.randint(0, 256, (130,), generator=torch.Generator().manual_seed(1)).tolist()
GREEDY = SamplingParams(0, 1, 20, 0)


def lane_request(k: int = 4, weighting: Any = "raw", sampling: SamplingParams = GREEDY, seed: int = 0) -> LaneRequest:
    return LaneRequest(160, RoutingPolicy(k, weighting), sampling, seed)


def prefilled(kernels: CpuKernels, cuts: list[int]) -> tuple[np.ndarray, ...]:
    """Everything a prompt leaves behind: routing, keys, values, logits."""
    with kernels.lanes([lane_request()]) as [lane]:
        routings = [kernels.prefill(lane, IDS[start:stop]) for start, stop in zip([0, *cuts], [*cuts, None],
                                                                                  strict=True)]
        parts = [np.concatenate([getattr(r, name) for r in routings])
                 for name in ("router_logits", "selected_experts", "routing_weights")]
        return (*parts, lane.keys, lane.values, lane.logits.numpy())


def test_a_prompt_gives_the_same_bits_however_it_is_cut_and_by_any_number_of_threads(any_olmoe: Any) -> None:
    kernels = CpuKernels(any_olmoe)
    kernels._threads = 1
    expected = prefilled(kernels, [])
    for threads, cuts in ((1, [1, 2, 67]), (2, []), (2, [65]), (3, [129]), (4, [3])):
        kernels._threads = threads
        for found, wanted in zip(prefilled(kernels, cuts), expected, strict=True):
            assert np.array_equal(found, wanted), f"{threads} threads, cut at {cuts}"


def test_a_step_gives_the_same_bits_alone_and_in_a_crowd(any_olmoe: Any) -> None:
    kernels = CpuKernels(any_olmoe)
    experts = any_olmoe.config.num_experts
    sampled = SamplingParams(1.0, 0.9, 20, 0)
    requests = [lane_request(1 + i * 3 % experts, w, s, seed=i) for i, (w, s) in enumerate(
        (w, s) for w in ("raw", "renormalised", "mass_preserving") for s in (GREEDY, sampled))]

    def run(chosen: list[LaneRequest]) -> list[tuple[list[Any], np.ndarray]]:
        with kernels.lanes(chosen) as lanes:
            for lane in lanes:
                kernels.prefill(lane, IDS[:10 + 7 * lane.request.seed])
            steps = [kernels.step(lanes, frozenset()) for _ in range(8)]
            return [([step[i].token_id for step in steps], lane.logits.numpy()) for i, lane in enumerate(lanes)]

    for request, (tokens, logits) in zip(requests, run(requests), strict=True):
        [(alone, alone_logits)] = run([request])
        assert tokens == alone and np.array_equal(logits, alone_logits), request


def test_a_lane_without_numbers_fails_alone(plain_olmoe: Any) -> None:
    kernels = CpuKernels(plain_olmoe)
    with kernels.lanes([lane_request(sampling=SamplingParams(1.0, 0.9, 20, 0))] * 2) as lanes:
        for lane in lanes:
            kernels.prefill(lane, IDS[:5])
        lanes[0].logits = torch.full_like(lanes[0].logits, torch.nan)
        broken, fine = kernels.step(lanes, frozenset())
    assert isinstance(broken, RuntimeError) and isinstance(fine, Step)


def test_a_full_lane_is_refused_before_anything_is_written(plain_olmoe: Any) -> None:
    kernels = CpuKernels(plain_olmoe)
    with kernels.lanes([LaneRequest(5, RoutingPolicy(4), GREEDY, 0)]) as [lane]:
        with pytest.raises(ValueError, match="5 tokens cannot hold 6"):
            kernels.prefill(lane, IDS[:6])
        kernels.prefill(lane, IDS[:5])
        with pytest.raises(ValueError, match="cannot hold 6"):
            kernels.step([lane], frozenset())


@pytest.mark.parametrize(("model", "said"), [
    (lambda: random_olmoe().bfloat16(), "its weights are bfloat16"),
    (lambda: random_olmoe(hidden_act="gelu"), "its experts use gelu"),
    (lambda: random_olmoe(intermediate_size=24), "no multiple of 16"),
    (lambda: random_olmoe(hidden_size=576, num_attention_heads=4), "its hidden size is 576"),
])
def test_what_the_loops_do_not_compute_is_refused_if_forced_and_left_to_pytorch_if_not(model: Any, said: str) -> None:
    built = model()
    with pytest.raises(BackendUnavailable, match=said):
        choose_kernels(built, "numba")
    assert choose_kernels(built).name == "PyTorch"


def test_the_proof_sees_kernels_that_compute_something_else(plain_olmoe: Any) -> None:
    kernels = choose_kernels(plain_olmoe)
    assert kernels.name == "Numba" and prove(plain_olmoe, kernels) > 0
    kernels._eps = np.float32(1)
    with pytest.raises(ValueError, match="through Numba does not reproduce"):
        prove(plain_olmoe, kernels)


def test_pytorch_can_be_forced(plain_olmoe: Any) -> None:
    kernels = choose_kernels(plain_olmoe, "torch")
    assert kernels.name == "PyTorch" and prove(plain_olmoe, kernels) > 0
