"""A model that is not built as we think is refused, with what was found."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from olmoe_space.engine.engine import Engine
from olmoe_space.engine.proof import prove
from olmoe_space.model.structure import UnknownStructure, weights_of


def test_every_shape_is_read_and_proved(any_olmoe: Any) -> None:
    assert prove(any_olmoe) > 1e-3


def test_weights_are_used_in_place(plain_olmoe: Any) -> None:
    weights = weights_of(plain_olmoe)
    assert weights.layers[0].gate_up_proj.data_ptr() == plain_olmoe.model.layers[0].mlp.experts.gate_up_proj.data_ptr()


def test_another_architecture_is_refused_by_name(tokenizer: Any) -> None:
    llama = LlamaForCausalLM(LlamaConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=1,
                                         num_attention_heads=2, vocab_size=64))
    with pytest.raises(UnknownStructure, match="LlamaForCausalLM with model_type 'llama'"):
        Engine(llama, tokenizer)


def test_a_missing_module_is_named(plain_olmoe: Any) -> None:
    del plain_olmoe.model.layers[1].mlp.gate
    with pytest.raises(UnknownStructure, match="no attribute 'gate'"):
        weights_of(plain_olmoe)


def test_an_unexpected_shape_is_named(plain_olmoe: Any) -> None:
    experts = plain_olmoe.model.layers[2].mlp.experts
    experts.down_proj = torch.nn.Parameter(experts.down_proj.transpose(1, 2).contiguous())
    with pytest.raises(UnknownStructure, match=r"Layer 2: down_proj has shape \(16, 32, 64\); expected \(16, 64, 32\)"):
        weights_of(plain_olmoe)


def test_a_model_that_computes_something_else_is_refused(plain_olmoe: Any) -> None:
    plain_olmoe.model.layers[0].self_attn.scaling *= 3  # a change that no attribute we read shows
    with pytest.raises(UnknownStructure, match="does not reproduce"):
        prove(plain_olmoe)


def test_a_model_whose_k_changes_nothing_is_refused(plain_olmoe: Any) -> None:
    for layer in plain_olmoe.model.layers:
        layer.mlp.experts.down_proj.data.zero_()
    with pytest.raises(UnknownStructure, match="does not change the logits"):
        prove(plain_olmoe)
