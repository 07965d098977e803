"""What the engine emits, and that stopping it stops it."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from olmoe_space.engine.engine import Engine
from olmoe_space.engine.fair_lock import FairLock
from olmoe_space.events import Finished, Prefilled, Started, Token
from olmoe_space.model.memory import CHUNK
from olmoe_space.request import GenerationRequest, Message, RoutingPolicy, SamplingParams
from olmoe_space.trace import record


def request(k: int = 4, new_tokens: int = 12, prompt: str = "Hello.", **sampling: Any) -> GenerationRequest:
    params = SamplingParams(**{"temperature": 0, "max_new_tokens": new_tokens, **sampling})
    return GenerationRequest((Message("user", prompt),), params, RoutingPolicy(k))


@pytest.fixture
def engine(plain_olmoe: Any, tokenizer: Any) -> Engine:
    return Engine(plain_olmoe, tokenizer)


def test_events_come_in_order_and_count_right(engine: Engine) -> None:
    events = list(engine.stream(request(prompt="x" * 300, seed=3)))
    kinds = [type(e) for e in events]
    assert kinds == [Started, Prefilled, Prefilled] + [Token] * 12 + [Finished]
    started, chunks, finished = events[0], events[1:3], events[-1]
    assert sum(len(c.token_ids) for c in chunks) == started.prompt_tokens == finished.prompt_tokens
    assert len(chunks[0].token_ids) == CHUNK
    assert (started.num_experts_per_tok, started.seed, finished.new_tokens) == (4, 3, 12)
    assert finished.finish_reason == "length" and finished.tokens_per_s > 0 and finished.ttft_s > 0


def test_a_fresh_seed_is_drawn_and_reported_and_repeats_the_reply(engine: Engine) -> None:
    first = list(engine.stream(request(temperature=1.0)))
    seed = first[0].seed
    again = list(engine.stream(request(temperature=1.0, seed=seed)))
    assert [e.token_id for e in first if isinstance(e, Token)] == [e.token_id for e in again if isinstance(e, Token)]


def test_the_trace_is_what_the_router_did(engine: Engine, plain_olmoe: Any) -> None:
    """Selected experts are the k largest logits; raw weights are their softmax values."""
    trace = record(engine.stream(request(k=5, temperature=0)))
    layers, experts = plain_olmoe.config.num_hidden_layers, plain_olmoe.config.num_experts
    assert trace.router_logits.shape == (trace.num_tokens, layers, experts)
    order = np.argsort(-trace.router_logits, -1, kind="stable")[..., :5]
    assert (order == trace.selected_experts).all()
    expected = np.take_along_axis(trace.router_probs(), order, -1)
    np.testing.assert_allclose(trace.routing_weights, expected, rtol=1e-5)
    assert (trace.expert_counts("decode").sum(1) == 12 * 5).all()


def test_router_logits_are_those_of_transformers(engine: Engine, plain_olmoe: Any) -> None:
    import torch

    trace = record(engine.stream(request(k=4, temperature=0)))
    with torch.no_grad():
        out = plain_olmoe(torch.tensor(trace.token_ids)[None], output_router_logits=True)
    theirs = torch.stack(out.router_logits, 1).numpy()
    np.testing.assert_allclose(trace.router_logits, theirs, atol=1e-4)


def test_closing_the_stream_stops_the_computation(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    steps, step = [], engine.kernels.step
    monkeypatch.setattr(engine.kernels, "step", lambda *a: steps.append(1) or step(*a))
    stream = engine.stream(request(new_tokens=200))
    for _ in range(5):
        next(stream)
    done = len(steps)
    stream.close()
    time.sleep(0.05)
    assert len(steps) == done
    assert len(list(engine.stream(request()))) == 15  # and the lock is free


def test_time_limit_ends_a_reply_with_what_there_is(plain_olmoe: Any, tokenizer: Any) -> None:
    events = list(Engine(plain_olmoe, tokenizer, max_request_s=0.0).stream(request(new_tokens=400)))
    assert events[-1].finish_reason == "time" and events[-1].new_tokens == 1


@pytest.mark.parametrize(("bad", "said"), [
    (RoutingPolicy(17), "1 to 16"), (RoutingPolicy("adaptive"), "adaptive")])
def test_a_k_this_model_cannot_have_is_refused(engine: Engine, bad: RoutingPolicy, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        list(engine.stream(GenerationRequest((Message("user", "Hi"),), routing=bad)))


def test_threads_share_the_model_and_get_their_own_text(engine: Engine) -> None:
    requests = [request(k=1 + i % 5, temperature=1.0, seed=i, prompt=f"Number {i}") for i in range(8)]
    alone = [[e.token_id for e in engine.stream(r) if isinstance(e, Token)] for r in requests]
    found: dict[int, list[int]] = {}

    def run(i: int) -> None:
        found[i] = [e.token_id for e in engine.stream(requests[i]) if isinstance(e, Token)]

    threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert [found[i] for i in range(8)] == alone


@pytest.mark.parametrize("backend", ["torch", None])
def test_a_long_answer_does_not_starve_a_short_one(plain_olmoe: Any, tokenizer: Any, backend: str | None) -> None:
    """Asked in the middle of a long answer, a short one takes few of the long one's steps, and both go on."""
    engine = Engine(plain_olmoe, tokenizer, backend=backend)
    engine._stop_ids = frozenset()  # no answer ends before its length
    made, under_way, finished = [0], threading.Event(), threading.Event()

    def answer_at_length() -> None:
        for event in engine.stream(request(temperature=1.0, max_new_tokens=120)):
            made[0] += isinstance(event, Token)
            if made[0] == 10:
                under_way.set()
        finished.set()

    thread = threading.Thread(target=answer_at_length, daemon=True)
    thread.start()
    assert under_way.wait(60)
    before = made[0]
    short = [event for event in engine.stream(request(temperature=1.0, max_new_tokens=8)) if isinstance(event, Token)]
    meanwhile = made[0] - before
    assert len(short) == 8 and not finished.is_set()
    assert meanwhile < 8 * 8, f"the long answer made {meanwhile} tokens while the short one made 8"
    thread.join(120)
    assert made[0] == 120


def test_fair_lock_serves_in_the_order_of_asking() -> None:
    lock, order, threads = FairLock(), [], []

    def take(i: int) -> None:
        with lock:
            order.append(i)

    with lock:
        for i in range(10):
            threads.append(threading.Thread(target=take, args=(i,)))
            threads[-1].start()
            while len(lock._waiting) <= i:
                time.sleep(0.001)
    for t in threads:
        t.join(5)
    assert order == list(range(10))


def test_characters_of_several_tokens_come_whole(engine: Engine) -> None:
    from olmoe_space.engine.engine import token_texts

    ids = engine.tokenizer("a€😀z")["input_ids"]
    texts = token_texts(engine.tokenizer, ids)
    assert len(texts) == len(ids) == 9 and "".join(texts) == "a€😀z"
    assert texts == ("a", "", "", "€", "", "", "", "😀", "z")
