"""Every token that we decode at k is the token of stock transformers built with num_experts_per_tok=k."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import OlmoeForCausalLM

from olmoe_space.engine.cache import KeyValueCache
from olmoe_space.engine.engine import Engine
from olmoe_space.engine.forward import forward
from olmoe_space.engine.routing import row_routing
from olmoe_space.events import Token
from olmoe_space.model.structure import weights_of
from olmoe_space.request import GenerationRequest, Message, RoutingPolicy, SamplingParams

from .fakes import EOS, random_olmoe

NEW_TOKENS = 40
PROMPT = "Why is the sky blue? Say it in one short sentence, please."


def stock_with(model: OlmoeForCausalLM, k: int) -> OlmoeForCausalLM:
    """A second model, built by transformers at k from the start, with the same weights."""
    config = copy.deepcopy(model.config)
    config.num_experts_per_tok = k
    other = OlmoeForCausalLM(config).float().eval()
    other.load_state_dict(model.state_dict())
    other.generation_config = model.generation_config
    return other


def stock_tokens(model: OlmoeForCausalLM, ids: list[int], new_tokens: int) -> list[int]:
    prompt = torch.tensor([ids])
    out = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=new_tokens, do_sample=False)
    found = out[0, len(ids):].tolist()
    eos = model.generation_config.eos_token_id
    return found[:found.index(eos)] if eos in found else found


def greedy(k: int, weighting: str = "raw", new_tokens: int = NEW_TOKENS, prompt: str = PROMPT) -> GenerationRequest:
    return GenerationRequest((Message("user", prompt),), SamplingParams(0, 1, new_tokens, 0),
                             RoutingPolicy(k, weighting))


def our_tokens(engine: Engine, request: GenerationRequest) -> list[int]:
    return [event.token_id for event in engine.stream(request) if isinstance(event, Token)]


def prompt_ids(tokenizer: Any, prompt: str = PROMPT) -> list[int]:
    return list(tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True,
                                              return_dict=False))


def ks_of(model: OlmoeForCausalLM) -> list[int]:
    experts = model.config.num_experts
    return sorted({1, min(4, experts), min(8, experts), min(16, experts), experts})


def test_greedy_tokens_equal_stock_for_every_shape_and_k(any_olmoe: Any, tokenizer: Any) -> None:
    engine = Engine(any_olmoe, tokenizer)
    for k in ks_of(any_olmoe):
        assert our_tokens(engine, greedy(k)) == stock_tokens(stock_with(any_olmoe, k), prompt_ids(tokenizer),
                                                             NEW_TOKENS), f"k={k}"


@pytest.mark.parametrize("k", [1, 4, 8, 16, 64])
def test_greedy_tokens_equal_stock_on_olmoe_tiny(olmoe_tiny: tuple[Any, Any], k: int) -> None:
    model, tokenizer = olmoe_tiny
    assert our_tokens(Engine(model, tokenizer), greedy(k)) == stock_tokens(
        stock_with(model, k), prompt_ids(tokenizer), NEW_TOKENS)


def test_logits_equal_stock_after_every_token(any_olmoe: Any) -> None:
    """Prefill in pieces against one stock forward: what is left is the order of sums in float32."""
    model = any_olmoe
    ids = torch.randint(0, 256, (1, 60), generator=torch.Generator().manual_seed(1))
    for k in ks_of(model):
        weights = weights_of(model)
        routing = row_routing([RoutingPolicy(k)], weights.num_experts, weights.device)
        cache = KeyValueCache(weights, 1, 60)
        ours = torch.cat([forward(weights, part, cache, [0], routing, all_logits=True).logits
                          for part in ids.split([25, 1, 33, 1], 1)], 1)
        with torch.no_grad():
            theirs = stock_with(model, k)(ids).logits
        assert (ours - theirs).norm() < 1e-5 * theirs.norm(), f"k={k}"


def test_mixed_rows_of_a_batch_give_what_each_gives_alone(any_olmoe: Any, tokenizer: Any) -> None:
    engine = Engine(any_olmoe, tokenizer)
    prompts = ["Hi.", PROMPT, "A much longer message, so that the rows of the batch have different lengths. " * 2]
    requests = [greedy(k, weighting, prompt=prompts[i % 3]) for i, (k, weighting) in enumerate(
        (k, w) for k in ks_of(any_olmoe) for w in ("raw", "renormalised", "mass_preserving"))]
    together: dict[int, list[int]] = {i: [] for i in range(len(requests))}
    for row, event in engine.stream_together(requests):
        if isinstance(event, Token):
            together[row].append(event.token_id)
    for i, request in enumerate(requests):
        assert together[i] == our_tokens(engine, request), request.routing


def test_requests_interleaved_token_by_token_give_what_each_gives_alone(plain_olmoe: Any, tokenizer: Any) -> None:
    engine = Engine(plain_olmoe, tokenizer)
    requests = [greedy(k) for k in ks_of(plain_olmoe)]
    streams = [engine.stream(r) for r in requests]
    tokens: list[list[int]] = [[] for _ in requests]
    running = set(range(len(requests)))
    while running:
        for i in sorted(running):
            event = next(streams[i], None)
            if event is None:
                running.discard(i)
            elif isinstance(event, Token):
                tokens[i].append(event.token_id)
    assert tokens == [our_tokens(engine, r) for r in requests]
    assert len({tuple(t) for t in tokens}) > 1, "k changed nothing"


def test_setting_the_config_after_loading_changes_nothing_but_our_k_does(tokenizer: Any) -> None:
    model = random_olmoe("olmoe_experts")
    ids = torch.tensor([prompt_ids(tokenizer)])
    with torch.no_grad():
        before = model(ids).logits
        model.config.num_experts_per_tok = 16  # the recipe that goes around
        assert torch.equal(model(ids).logits, before)
    engine = Engine(random_olmoe("olmoe_experts"), tokenizer)
    assert our_tokens(engine, greedy(16)) != our_tokens(engine, greedy(8))


def test_sampled_text_depends_on_the_seed_alone(plain_olmoe: Any, tokenizer: Any) -> None:
    engine = Engine(plain_olmoe, tokenizer)

    def request(seed: int) -> GenerationRequest:
        return GenerationRequest((Message("user", PROMPT),), SamplingParams(1.0, 0.9, 30, seed), RoutingPolicy(4))

    first, again, other = (our_tokens(engine, request(s)) for s in (1, 1, 2))
    assert first == again != other
    crowd = [e.token_id for row, e in engine.stream_together([request(2), request(1)])
             if row == 1 and isinstance(e, Token)]
    assert crowd == first


def test_eos_ends_the_reply_and_is_not_part_of_it(plain_olmoe: Any, tokenizer: Any) -> None:
    engine = Engine(plain_olmoe, tokenizer)
    free = our_tokens(engine, greedy(4))
    plain_olmoe.generation_config.eos_token_id = [EOS, free[5]]
    events = list(Engine(plain_olmoe, tokenizer).stream(greedy(4)))
    assert [e.token_id for e in events if isinstance(e, Token)] == free[:free.index(free[5])]
    assert events[-1].finish_reason == "stop"
