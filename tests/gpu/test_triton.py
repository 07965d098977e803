"""The Triton kernels on a CUDA device: `pytest -m gpu tests/gpu`."""

from __future__ import annotations

import threading

import pytest
import torch

from olmoe_space.engine.engine import Engine
from olmoe_space.events import Token
from olmoe_space.request import GenerationRequest, Message, RoutingPolicy, SamplingParams

from ..fakes import byte_tokenizer, random_olmoe
from ..test_exactness import NEW_TOKENS, greedy, ks_of, our_tokens, prompt_ids, stock_tokens, stock_with

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
COMPUTED = ("plain", "grouped_query", "wide_heads", "olmoe_experts", "odd_experts", "one_layer", "norm_topk_prob",
            "tied")


@pytest.mark.parametrize("case", range(7))
def test_decode_steps_equal_our_forward_in_float32(case: int) -> None:
    from ..interpreted_step import CASES, check

    shape, ks, lengths = CASES[case]
    check(shape, ks, lengths, steps=12, device="cuda")


def test_draws_obey_the_rule() -> None:
    from ..interpreted_step import check_drawing

    check_drawing("cuda", draws=6000)


@pytest.mark.parametrize("shape", COMPUTED)
def test_greedy_tokens_equal_stock_in_float32(shape: str) -> None:
    model, tokenizer = random_olmoe(shape), byte_tokenizer()
    ids = prompt_ids(tokenizer)
    expected = {k: stock_tokens(stock_with(model, k), ids, NEW_TOKENS) for k in ks_of(model)}  # on the CPU
    engine = Engine(model.to("cuda"), tokenizer, backend="triton")
    for k, tokens in expected.items():
        assert our_tokens(engine, greedy(k)) == tokens, f"k={k}"


@pytest.mark.parametrize("shape", ["clip_qkv", "attention_bias"])
def test_what_the_kernels_cannot_compute_goes_to_pytorch(shape: str) -> None:
    engine = Engine(random_olmoe(shape).to("cuda"), byte_tokenizer())
    assert engine.kernels.name == "PyTorch"


def test_a_crowd_of_chats_gives_what_each_gives_alone() -> None:
    """In float32; the seeds, not the neighbours, decide what is drawn."""
    engine = Engine(random_olmoe("olmoe_experts").to("cuda"), byte_tokenizer(), backend="triton")
    requests = [GenerationRequest((Message("user", f"Tell me about number {k}."),), SamplingParams(0.8, 0.9, 40, i),
                                  RoutingPolicy(k, ("raw", "renormalised", "mass_preserving")[i % 3]))
                for i, k in enumerate((1, 4, 8, 16, 64, 8, 8))]
    alone = [our_tokens(engine, r) for r in requests]
    found: dict[int, list[int]] = {}

    def chat(i: int) -> None:
        found[i] = [e.token_id for e in engine.stream(requests[i]) if isinstance(e, Token)]

    threads = [threading.Thread(target=chat, args=(i,)) for i in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(len(requests))] == alone
    assert len({tuple(tokens) for tokens in alone}) == len(requests)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_proved(dtype: torch.dtype) -> None:
    """The proof against transformers' logits runs when the kernels are built; it raises if they do not agree."""
    engine = Engine(random_olmoe("olmoe_experts", initializer_range=0.1).to(dtype).to("cuda"), byte_tokenizer(),
                    backend="triton")
    assert our_tokens(engine, greedy(8))
