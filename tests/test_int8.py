"""8-bit weights: how they are rounded, and that a quantised model gives the tokens of one with those very weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from olmoe_space.engine.backend import choose_kernels
from olmoe_space.engine.engine import Engine
from olmoe_space.engine.experts import mix_experts
from olmoe_space.engine.kernels import BackendUnavailable
from olmoe_space.engine.proof import prove
from olmoe_space.model.int8 import ATTENTION, EXPERTS, Int8Weight, linear, quantised, to_int8
from olmoe_space.model.loader import load
from olmoe_space.model.structure import UnknownStructure, weights_of
from olmoe_space.settings import Settings

from .fakes import random_olmoe
from .test_exactness import NEW_TOKENS, greedy, ks_of, our_tokens, prompt_ids, stock_tokens, stock_with


def rounded_by_hand(weight: torch.Tensor) -> torch.Tensor:
    """What 8 bits leave of a matrix, said another way than `quantised` does."""
    step = weight.abs().max(-1, keepdim=True).values / 127
    return torch.where(step > 0, (weight / step).round() * step, weight)


def with_rounded_weights(shape: str) -> Any:
    """A stock model whose experts, attention and head hold what 8 bits leave of them; no int8 anywhere."""
    model = random_olmoe(shape)
    for layer in model.model.layers:
        for name in ATTENTION:
            matrix = getattr(layer.self_attn, name).weight
            matrix.copy_(rounded_by_hand(matrix))
        for name in EXPERTS:
            matrix = getattr(layer.mlp.experts, name)
            matrix.copy_(rounded_by_hand(matrix))
    head = rounded_by_hand(model.lm_head.weight)
    if model.config.tie_word_embeddings:  # the embedding keeps all its bits
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(head, requires_grad=False)
    else:
        model.lm_head.weight.copy_(head)
    return model


def test_no_weight_moves_by_more_than_half_a_step_of_its_channel() -> None:
    weight = torch.randn(3, 20, 50, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 2, 20)[:, None]
    packed = quantised(weight)
    assert packed.values.dtype == torch.int8 and packed.scale.shape == (3, 20, 1)
    assert packed.values.abs().amax(-1).eq(127).all()
    assert ((packed.dequantised(torch.float32) - weight).abs() <= packed.scale * 0.50001).all()


def test_a_channel_of_zeros_stays_one_and_the_largest_weight_is_kept() -> None:
    weight = torch.tensor([[0.0, 0.0], [0.5, -2.0]])
    found = quantised(weight).dequantised(torch.float32)
    assert found[0].eq(0).all() and found[1, 1] == pytest.approx(-2.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_linear_knows_both_kinds_of_weight(dtype: torch.dtype) -> None:
    x, weight, bias = torch.randn(5, 16, dtype=dtype), torch.randn(8, 16, dtype=dtype), torch.randn(8, dtype=dtype)
    packed = quantised(weight)
    torch.testing.assert_close(linear(x, weight, bias), torch.nn.functional.linear(x, weight, bias))
    torch.testing.assert_close(linear(x, packed, bias),
                               torch.nn.functional.linear(x, packed.dequantised(dtype), bias))


SHAPES = ["plain", "grouped_query", "olmoe_experts", "clip_qkv", "norm_topk_prob", "tied", "attention_bias"]


@pytest.mark.parametrize("shape", SHAPES)
def test_greedy_tokens_equal_stock_with_the_dequantised_weights(shape: str, tokenizer: Any) -> None:
    expected = with_rounded_weights(shape)
    engine = Engine(to_int8(random_olmoe(shape), "cpu"), tokenizer)
    for k in ks_of(expected):
        assert our_tokens(engine, greedy(k)) == stock_tokens(stock_with(expected, k), prompt_ids(tokenizer),
                                                             NEW_TOKENS), f"k={k}"


def test_a_quantised_model_is_proved_and_a_wrong_one_refused(plain_olmoe: Any) -> None:
    assert prove(to_int8(plain_olmoe, "cpu")) > 1e-3
    plain_olmoe.model.layers[0].self_attn.scaling *= 3
    with pytest.raises(UnknownStructure, match="does not reproduce"):
        prove(plain_olmoe)


@pytest.mark.parametrize("k", [1, 4, 8, 16])
def test_few_and_most_experts_are_mixed_alike(plain_olmoe: Any, k: int) -> None:
    """One token at any k, by gathering or expert by expert, is that token among others."""
    model = weights_of(to_int8(plain_olmoe, "cpu"))
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    weights, experts = torch.rand(3, 16, generator=torch.Generator().manual_seed(1)).topk(k)
    together = mix_experts(x, weights, experts, model.layers[0], model)
    alone = torch.cat([mix_experts(x[n:n + 1], weights[n:n + 1], experts[n:n + 1], model.layers[0], model)
                       for n in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_the_setting_loads_8_bits_and_the_badge_says_so(random_model_folder: Path) -> None:
    loaded = load(Settings(model=str(random_model_folder), weights="int8"))
    weights = weights_of(loaded.model)
    assert weights.in_int8 and weights.dtype == torch.float32
    assert all(isinstance(getattr(layer, name), Int8Weight) for layer in weights.layers
               for name in (*ATTENTION, *EXPERTS))
    assert loaded.info.dtype == "int8 weights, float32"
    assert loaded.info.total_params == load(Settings(model=str(random_model_folder))).info.total_params


def test_kernels_that_cannot_read_8_bits_leave_them_to_pytorch(plain_olmoe: Any) -> None:
    model = to_int8(plain_olmoe, "cpu")
    assert choose_kernels(model).name == "PyTorch"
    with pytest.raises(BackendUnavailable, match="int8"):
        choose_kernels(model, "numba")
