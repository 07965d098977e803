"""Compare: the columns, where they part, and why."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import torch

from olmoe_space.comparison import END, Difference, Parting, Speed, only_one_used, partings
from olmoe_space.engine.engine import Engine
from olmoe_space.events import Prefilled, Token
from olmoe_space.lab.compare import differences
from olmoe_space.request import GenerationRequest, Message, RoutingPolicy, SamplingParams

from .test_exactness import stock_with

SETTINGS = (RoutingPolicy(4), RoutingPolicy(1), RoutingPolicy(16), RoutingPolicy(4, "renormalised"))


def requests(temperature: float = 0) -> list[GenerationRequest]:
    return [GenerationRequest((Message("user", "Why is the sky blue?"),), SamplingParams(temperature, 1, 12, 3), policy)
            for policy in SETTINGS]


def together(engine: Engine, asked: list[GenerationRequest]) -> tuple[list[int], list[list[int]]]:
    prompt: list[int] = []
    replies: list[list[int]] = [[] for _ in asked]
    for row, event in engine.stream_together(asked):
        if isinstance(event, Prefilled) and row == 0:
            prompt += event.token_ids
        elif isinstance(event, Token):
            replies[row].append(event.token_id)
    return prompt, replies


def test_columns_equal_the_chats_run_alone(plain_olmoe: Any, tokenizer: Any) -> None:
    engine = Engine(plain_olmoe, tokenizer)
    for temperature in (0, 0.8):
        asked = requests(temperature)
        _, replies = together(engine, asked)
        assert replies == [[e.token_id for e in engine.stream(r) if isinstance(e, Token)] for r in asked]
        assert len({tuple(r) for r in replies}) > 1


def test_partings_by_hand() -> None:
    a, b, c, d, e = range(5)
    assert partings([[a, b, c], [a, b, d], [a, e], [a, b, c]]) == [Parting(1, (0, 1, 2, 3)), Parting(2, (0, 1, 3))]
    assert partings([[a, b], [a, b]]) == partings([[a, b], [a]]) == partings([[a], []]) == partings([[a]]) == []
    assert partings([[a, b, c], [a, END]]) == [Parting(1, (0, 1))]
    assert partings([[a, b], [c, d], [a, d], [c, b]]) == [
        Parting(0, (0, 1, 2, 3)), Parting(1, (0, 2)), Parting(1, (1, 3))]


def test_experts_that_only_one_used() -> None:
    first, second = ((3, 1), (0, 2)), ((1, 4, 5), (2, 0, 3))
    assert only_one_used(first, second) == ([[3], []], [[4, 5], [3]])


def test_a_difference_has_the_distributions_and_experts_of_stock(plain_olmoe: Any, tokenizer: Any) -> None:
    engine = Engine(plain_olmoe, tokenizer)
    prompt, replies = together(engine, requests())
    results = list(differences(engine, prompt, replies, SETTINGS))
    found = [r for r in results if isinstance(r, Difference)]
    assert [(d.position, d.replies) for d in found] == [(p.position, p.replies) for p in partings(replies)] != []
    assert [s.num_experts_per_tok for s in results if isinstance(s, Speed)] == [4, 1, 16]
    for difference in found:
        for row, reply in enumerate(difference.replies):
            taken = difference.taken[row]
            assert difference.token_ids[taken] == replies[reply][difference.position]
            assert difference.probs[row].argmax() == taken  # greedy took the likeliest
            policy = SETTINGS[reply]
            assert [len(layer) for layer in difference.experts[row]] == [policy.num_experts_per_tok] * 3
            if policy.weighting == "raw":
                ids = torch.tensor([[*prompt, *replies[reply][:difference.position]]])
                with torch.no_grad():
                    out = stock_with(plain_olmoe, int(policy.num_experts_per_tok))(ids, output_router_logits=True)
                theirs = torch.softmax(out.logits[0, -1], -1)[difference.token_ids]
                np.testing.assert_allclose(difference.probs[row], theirs.numpy(), atol=1e-5)
                for layer, logits in enumerate(out.router_logits):
                    top = set(logits[-1].topk(int(policy.num_experts_per_tok)).indices.tolist())
                    assert set(difference.experts[row][layer]) == top


def test_a_reply_that_ends_differs_from_one_that_goes_on(plain_olmoe: Any, tokenizer: Any) -> None:
    engine = Engine(plain_olmoe, tokenizer)
    [difference, *_] = differences(engine, [65, 66], [[67, 68], [67, END]], SETTINGS[:2])
    assert isinstance(difference, Difference)
    goes_on, ended = difference.taken
    assert difference.position == 1 and difference.ends[ended] and not difference.ends[goes_on]
    again = pickle.loads(pickle.dumps(difference))
    assert (again.probs == difference.probs).all()
