"""The Triton kernels on a CUDA device: `pytest -m gpu tests/gpu`."""

from __future__ import annotations

import threading

import pytest
import torch

from olmoe_space.engine.engine import Engine
from olmoe_space.engine.kernels import LaneRequest
from olmoe_space.events import Token
from olmoe_space.model.int8 import to_int8
from olmoe_space.model.memory import Room
from olmoe_space.model.random_weights import random_model, shape_of
from olmoe_space.request import GenerationRequest, Message, RoutingPolicy, SamplingParams

from ..fakes import byte_tokenizer, random_olmoe
from ..test_exactness import NEW_TOKENS, greedy, ks_of, our_tokens, prompt_ids, stock_tokens, stock_with
from ..test_int8 import with_rounded_weights

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
COMPUTED = ("plain", "grouped_query", "wide_heads", "olmoe_experts", "odd_experts", "one_layer", "norm_topk_prob",
            "tied")


@pytest.mark.parametrize("case", range(7))
def test_decode_steps_equal_our_forward_in_float32(case: int) -> None:
    from ..interpreted_step import CASES, check

    shape, ks, lengths = CASES[case]
    check(shape, ks, lengths, steps=12, device="cuda")


@pytest.mark.parametrize("case", range(4))
def test_decode_steps_with_int8_weights_equal_our_forward_in_float32(case: int) -> None:
    from ..interpreted_step import INT8_CASES, check

    shape, ks, lengths = INT8_CASES[case]
    check(shape, ks, lengths, steps=12, device="cuda", in_int8=True)


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


@pytest.mark.parametrize("shape", COMPUTED)
def test_greedy_tokens_with_int8_weights_equal_stock_with_the_dequantised_ones(shape: str) -> None:
    expected, tokenizer = with_rounded_weights(shape), byte_tokenizer()
    engine = Engine(to_int8(random_olmoe(shape), "cuda"), tokenizer, backend="triton")
    for k in ks_of(expected):
        tokens = stock_tokens(stock_with(expected, k), prompt_ids(tokenizer), NEW_TOKENS)  # on the CPU
        assert our_tokens(engine, greedy(k)) == tokens, f"k={k}"


@pytest.mark.parametrize("shape", ["clip_qkv", "attention_bias"])
def test_what_the_kernels_cannot_compute_goes_to_pytorch(shape: str) -> None:
    engine = Engine(random_olmoe(shape).to("cuda"), byte_tokenizer())
    assert engine.kernels.name == "PyTorch"


@pytest.mark.parametrize("in_int8", [False, True])
def test_a_crowd_of_chats_gives_what_each_gives_alone(in_int8: bool) -> None:
    """In float32; the seeds, not the neighbours, decide what is drawn."""
    model = random_olmoe("olmoe_experts")
    engine = Engine(to_int8(model, "cuda") if in_int8 else model.to("cuda"), byte_tokenizer(), backend="triton")
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


@pytest.mark.parametrize("in_int8", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_proved(dtype: torch.dtype, in_int8: bool) -> None:
    """The proof against transformers' logits runs when the kernels are built; it raises if they do not agree."""
    model = random_olmoe("olmoe_experts", initializer_range=0.1).to(dtype)
    engine = Engine(to_int8(model, "cuda") if in_int8 else model.to("cuda"), byte_tokenizer(), backend="triton")
    assert our_tokens(engine, greedy(8))


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_int8_logits_in_half_precision_are_those_of_our_forward(dtype: torch.dtype, rows: int) -> None:
    from ..interpreted_step import check_int8_in_half_precision

    check_int8_in_half_precision(dtype, rows, steps=8, device="cuda")


def test_int8_of_the_real_shape_stays_under_8_5_gb_with_a_chat_of_the_whole_context() -> None:
    from olmoe_space.engine.cuda.lanes import TritonKernels

    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    model = random_model(shape_of(), torch.bfloat16, "cuda", in_int8=True)
    kernels = TritonKernels(model, Room(1, 4096))
    with kernels.lanes([LaneRequest(4096, RoutingPolicy(8), SamplingParams(temperature=0), 0)]) as [lane]:
        for _ in range(15):
            kernels.prefill(lane, list(range(1000, 1256)))
        kernels.step([lane], frozenset())
    assert torch.cuda.max_memory_allocated() - before < 8.5e9
