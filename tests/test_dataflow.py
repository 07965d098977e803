"""Inside a token: what is told adds up, by itself, to the logits of stock transformers."""

from __future__ import annotations

import copy
import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import OlmoeForCausalLM

from olmoe_space.__main__ import main
from olmoe_space.engine.cache import KeyValueCache
from olmoe_space.engine.engine import Engine
from olmoe_space.engine.forward import forward
from olmoe_space.engine.routing import row_routing
from olmoe_space.lab.dataflow import (
    attention_sum,
    attention_weights,
    inside,
    relative_error,
    selection_at,
    token_index,
    walk,
)
from olmoe_space.model.structure import weights_of
from olmoe_space.request import RoutingPolicy
from olmoe_space.walk import MAX_TOKENS, Check, Vector, Walk

from .fakes import random_olmoe

TEXT = "Artificial intelligence is"
WEIGHTINGS = ("raw", "renormalised", "mass_preserving")
CLOSE = 1e-5  # relative; what is left is the order of sums in float32


def ks_of(model: OlmoeForCausalLM) -> list[int]:
    return [k for k in (1, 8, 16, 64) if k <= model.config.num_experts]


def stock_logits(model: OlmoeForCausalLM, ids: tuple[int, ...], k: int, weighting: str) -> np.ndarray | None:
    """Logits [T, V] of transformers' own model built at k; renormalised is its norm_topk_prob. It has no
    mass_preserving."""
    if weighting == "mass_preserving" and not model.config.norm_topk_prob:
        return None
    config = copy.deepcopy(model.config)
    config.num_experts_per_tok = k
    config.norm_topk_prob = config.norm_topk_prob or weighting == "renormalised"
    other = OlmoeForCausalLM(config).float().eval()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        return other(torch.tensor([ids])).logits[0].numpy()


def engine_logits(model: OlmoeForCausalLM, ids: tuple[int, ...], policy: RoutingPolicy) -> np.ndarray:
    weights = weights_of(model)
    routing = row_routing([policy], weights.num_experts, weights.device)
    return forward(weights, torch.tensor([ids]), KeyValueCache(weights, 1, len(ids)), [0], routing,
                   all_logits=True).logits[0].numpy()


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    return weight * x / np.sqrt((x * x).mean() + eps)


def close(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.linalg.norm(a - b) <= CLOSE * np.linalg.norm(b))


def logits_from_what_is_told(model: OlmoeForCausalLM, told: Walk) -> np.ndarray:
    """numpy alone, in float64: the embedding plus what attention and each expert added, normed, times the head.
    On the way, every step against the next."""
    eps = model.config.rms_norm_eps
    stream = told.embedding.values.astype(np.float64)
    for i, layer in enumerate(told.layers):
        weights = model.model.layers[i]
        assert close(layer.stream_in.values, stream)
        assert close(layer.attention_input.values,
                     rms_norm(stream, weights.input_layernorm.weight.numpy(), eps))
        assert layer.attention.shape == (told.shape.num_heads, told.token + 1)
        assert np.allclose(layer.attention.sum(1), 1, atol=1e-5)
        stream = stream + layer.attention_output.values
        assert close(layer.stream_between.values, stream)
        normed = rms_norm(stream, weights.post_attention_layernorm.weight.numpy(), eps)
        assert close(layer.experts_input.values, normed)
        assert close(layer.router_logits, weights.mlp.gate.weight.numpy() @ normed)
        shares = np.exp(layer.router_logits - layer.router_logits.max())
        assert close(layer.probabilities, shares / shares.sum())
        assert [w.expert for w in layer.experts] == list(layer.selections[0].experts) and len(layer.experts) == told.k
        stream = stream + sum(work.weight * work.output.values.astype(np.float64) for work in layer.experts)
        assert close(layer.stream_out.values, stream)
    final = rms_norm(stream, model.model.norm.weight.numpy(), eps)
    assert close(told.final_norm.values, final)
    return model.lm_head.weight.numpy() @ final


def check_walks(model: OlmoeForCausalLM, tokenizer: Any, token: int) -> None:
    for k in ks_of(model):
        for weighting in WEIGHTINGS:
            policy = RoutingPolicy(k, weighting)
            told = walk(Engine(model, tokenizer), TEXT, token, policy)
            shown = logits_from_what_is_told(model, told)
            assert close(shown, told.logits), (k, weighting)
            assert close(shown, engine_logits(model, told.token_ids, policy)[told.token]), (k, weighting)
            stock = stock_logits(model, told.token_ids, k, weighting)
            assert stock is None or close(shown, stock[told.token]), (k, weighting)
            assert {c.name for c in told.checks} == {"attention", "residual", "router", "experts", "logits"}
            assert all(c.passed and c.error < CLOSE for c in told.checks), told.checks


def test_what_is_told_reproduces_the_logits_of_every_shape(any_olmoe: Any, tokenizer: Any) -> None:
    check_walks(any_olmoe, tokenizer, -1)


@pytest.mark.parametrize("token", [0, 3])
def test_what_is_told_reproduces_the_logits_of_olmoe_tiny(olmoe_tiny: tuple[Any, Any], token: int) -> None:
    check_walks(*olmoe_tiny, token)


def test_attention_equals_what_transformers_reports(olmoe_tiny: tuple[Any, Any]) -> None:
    model, tokenizer = olmoe_tiny
    told = walk(Engine(model, tokenizer), TEXT, 4)
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        theirs = eager(torch.tensor([told.token_ids]), output_attentions=True).attentions
    for layer, attention in zip(told.layers, theirs, strict=True):
        assert np.allclose(layer.attention, attention[0, :, 4, :5].numpy(), atol=1e-5)


def test_other_k_are_told_for_the_same_input(olmoe_tiny: tuple[Any, Any]) -> None:
    told = walk(Engine(*olmoe_tiny), TEXT, -1, RoutingPolicy(4))
    for layer in told.layers:
        four, eight, sixteen = layer.selections
        assert (four.k, eight.k, sixteen.k) == (4, 8, 16)
        assert four.experts == eight.experts[:4] and eight.experts == sixteen.experts[:8]
        assert four.mass < eight.mass < sixteen.mass < 1
        assert four.mass == pytest.approx(sum(w.weight for w in layer.experts))


def test_a_spoiled_forward_does_not_pass_as_checked(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks find an expert output that is not the model's."""
    from olmoe_space.lab import dataflow

    real = dataflow.expert_outputs
    monkeypatch.setattr(dataflow, "expert_outputs", lambda *arguments: real(*arguments) * 1.01)
    told = walk(Engine(random_olmoe(), tokenizer), TEXT)
    assert {c.name for c in told.checks if not c.passed} >= {"experts", "logits"}


def test_what_is_sent_is_small_pickles_and_keeps_its_norms(olmoe_tiny: tuple[Any, Any]) -> None:
    engine = Engine(*olmoe_tiny)
    [sent] = inside(engine, TEXT, -1, RoutingPolicy(8))
    whole = walk(engine, TEXT, -1, RoutingPolicy(8))
    raw = pickle.dumps(sent)
    assert len(raw) < 200_000 and pickle.loads(raw).token_ids == whole.token_ids
    assert sent.layers[3].stream_out.values.shape == (64,) and whole.layers[3].stream_out.values.shape == (256,)
    assert sent.layers[3].stream_out.norm == whole.layers[3].stream_out.norm
    assert sent.logits.shape == (8192,)


def test_bfloat16_is_checked_with_its_own_tolerance(tokenizer: Any) -> None:
    told = walk(Engine(random_olmoe("olmoe_experts").bfloat16(), tokenizer), TEXT)
    assert told.shape.dtype == "bfloat16"
    assert all(c.tolerance == .05 for c in told.checks)
    assert next(c for c in told.checks if c.name == "experts").passed


@pytest.mark.parametrize(("text", "token", "said"), [
    ("", 0, "empty"), ("hello", 5, "from 0 to 4"), ("hello", -6, "from 0 to 4"),
    ("x" * (MAX_TOKENS + 1), 0, "at most")])
def test_what_cannot_be_walked_is_a_sentence(plain_olmoe: Any, tokenizer: Any, text: str, token: int,
                                             said: str) -> None:
    with pytest.raises(ValueError, match=said):
        walk(Engine(plain_olmoe, tokenizer), text, token)


# By hand -------------------------------------------------------------------------------------------------------------

def test_attention_by_hand() -> None:
    """Two query heads share one key head; D = 4, so scores are halved. q·k/2 = ln 3 and 0 -> 3/4 and 1/4."""
    queries = torch.tensor([[2 * math.log(3), 0, 0, 0], [0, 0, 0, 0.]])
    keys = torch.tensor([[[1., 0, 0, 0], [0, 1, 0, 0]]])
    found = attention_weights(queries, keys)
    assert torch.allclose(found, torch.tensor([[.75, .25], [.5, .5]]))
    values = torch.tensor([[[4., 0, 0, 0], [0, 8, 0, 0]]])

    class Layer:
        o_proj, o_bias = torch.eye(8), torch.full((8,), 10.)

    assert attention_sum(found, values, Layer).tolist() == pytest.approx([13, 12, 10, 10, 12, 14, 10, 10])  # type: ignore[arg-type]


def test_selection_by_hand() -> None:
    shares = np.array([.1, .4, .2, .3], np.float32)
    found = selection_at(shares, 2)
    assert found.experts == (1, 3) and found.mass == pytest.approx(.7)


def test_small_parts_by_hand() -> None:
    assert Vector.of(np.array([3., 4.])).norm == 5
    assert Vector.of(np.array([3., 4.])).head(1).norm == 5
    assert relative_error(torch.tensor([3., 4.]), torch.tensor([0., 4.])) == .75
    assert relative_error(torch.zeros(2), torch.zeros(2)) == 0
    assert not Check("x", float("nan"), 1).passed
    assert (token_index(-1, 7), token_index(0, 7)) == (6, 0)


# The shell -----------------------------------------------------------------------------------------------------------

def test_the_shell(random_model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--model", str(random_model_folder), "dataflow", "Hi there", "--layer", "1", "--token", "-2",
               "--k", "16"]
    assert main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["token"] == 6 and told["layer"] == 1 and len(told["chosen_layer"]["experts"]) == 16
    assert all(check["passed"] for check in told["checks"])
    assert main(command) == 0
    assert "16 of 64 experts" in capsys.readouterr().out
    assert main([*command[:3], "Hi", "--layer", "9"]) == 2
    assert "from 0 to 2" in capsys.readouterr().err
