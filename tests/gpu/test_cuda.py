"""The engine on a CUDA device: `pytest -m gpu tests/gpu`."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from olmoe_space.engine.cache import KeyValueCache
from olmoe_space.engine.engine import Engine
from olmoe_space.engine.forward import forward
from olmoe_space.engine.proof import prove
from olmoe_space.engine.routing import row_routing
from olmoe_space.events import Token
from olmoe_space.model.loader import load
from olmoe_space.model.structure import weights_of
from olmoe_space.request import GenerationRequest, Message, RoutingPolicy, SamplingParams
from olmoe_space.settings import EMBEDDED_MODEL, Settings

from ..fakes import SHAPES, byte_tokenizer, random_olmoe
from ..test_exactness import NEW_TOKENS, greedy, ks_of, our_tokens, prompt_ids, stock_tokens, stock_with

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def on_gpu_stock(model: Any, ids: list[int]) -> list[int]:
    prompt = torch.tensor([ids], device="cuda")
    out = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=NEW_TOKENS, do_sample=False)
    found = out[0, len(ids):].tolist()
    eos = model.generation_config.eos_token_id
    return found[:found.index(eos)] if eos in found else found


@pytest.mark.parametrize("shape", SHAPES)
def test_greedy_tokens_equal_stock_in_float32(shape: str) -> None:
    model, tokenizer = random_olmoe(shape), byte_tokenizer()
    ids = prompt_ids(tokenizer)
    for k in ks_of(model):
        expected = stock_tokens(stock_with(model, k), ids, NEW_TOKENS)  # on the CPU
        assert our_tokens(Engine(model.to("cuda"), tokenizer), greedy(k)) == expected, f"k={k}"
        model.to("cpu")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_embedded_model_is_proved_in_every_dtype(dtype: str) -> None:
    loaded = load(Settings(model=str(EMBEDDED_MODEL), dtype=dtype))
    assert loaded.model.device.type == "cuda" and loaded.info.device == torch.cuda.get_device_name()
    assert prove(loaded.model) > 0
    tokens = our_tokens(Engine(loaded.model, loaded.tokenizer), greedy(8))
    assert len(tokens) > 3
    if dtype == "float32":
        assert tokens == on_gpu_stock(loaded.model, prompt_ids(loaded.tokenizer))


def test_unasked_and_offline_a_gpu_gets_the_embedded_model_in_bfloat16() -> None:
    info = load(Settings()).info
    assert info.name == "olmoe-tiny" and info.dtype == "bfloat16" and "served instead" in info.notice


@pytest.mark.parametrize("k", [1, 8, 64])
def test_bfloat16_logits_are_as_close_to_float32_as_stock_bfloat16_ones(k: int) -> None:
    """Rounding is unavoidable in 16 bits; ours may not add to it: at most 1.2 times stock's own distance.

    Of many short texts the median token: where two experts all but tie, rounding alone decides which one computes a
    token, and all behind it in the same text feel that.
    """
    wide = load(Settings(model=str(EMBEDDED_MODEL), dtype="float32")).model
    half = load(Settings(model=str(EMBEDDED_MODEL), dtype="bfloat16")).model
    ids = torch.randint(5, 8000, (16, 48), device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    weights = weights_of(half)
    routing = row_routing([RoutingPolicy(k)] * 16, weights.num_experts, weights.device)
    ours = forward(weights, ids, KeyValueCache(weights, 16, 48), list(range(16)), routing, all_logits=True).logits
    with torch.no_grad():
        exact = _stock_logits(wide, k, ids)
        stock = _stock_logits(half, k, ids)
    assert (ours - exact).norm(dim=-1).median() <= 1.2 * (stock - exact).norm(dim=-1).median()


def _stock_logits(model: Any, k: int, ids: torch.Tensor) -> torch.Tensor:
    other = stock_with(model, k).to(model.dtype).to("cuda")
    return other(ids).logits.float()


def test_mixed_chats_on_one_gpu_give_what_each_gives_alone() -> None:
    loaded = load(Settings(model=str(EMBEDDED_MODEL), dtype="float32"))
    engine = Engine(loaded.model, loaded.tokenizer)
    requests = [GenerationRequest((Message("user", f"Tell me about number {k}."),), SamplingParams(0.8, 0.9, 40, k),
                                  RoutingPolicy(k)) for k in (1, 4, 8, 16, 64)]
    alone = [our_tokens(engine, r) for r in requests]
    found: dict[int, list[int]] = {}

    def run(i: int) -> None:
        found[i] = [e.token_id for e in engine.stream(requests[i]) if isinstance(e, Token)]

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(len(requests))] == alone


def test_the_real_shape_streams() -> None:
    """Random weights of OLMoE-1B-7B in bfloat16: 16 layers, 64 experts, hidden 2048."""
    with torch.device("cuda"):
        model = random_olmoe("olmoe_experts", hidden_size=2048, intermediate_size=1024,
                             num_hidden_layers=16, num_attention_heads=16, initializer_range=0.02).bfloat16()
    assert prove(model) > 0
    engine = Engine(model, byte_tokenizer())
    assert [len(our_tokens(engine, greedy(k))) for k in (1, 8, 64)] == [NEW_TOKENS] * 3
