"""The app itself on the ZeroGPU path, with a random model: run under `tests.zero_gpu.device`."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import pickle
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import gradio as gr
import pytest
import torch
from gradio_client import Client

from olmoe_space.engine import pytorch
from olmoe_space.events import Event, Finished, Prefilled, Started, Token
from olmoe_space.request import GenerationRequest, Message, RoutingPolicy, SamplingParams
from tests.fakes import byte_tokenizer, random_olmoe, save_random_olmoe
from tests.serving import free_port
from tests.test_events import same
from tests.zero_gpu.device import SERVICE

PROMPT = "Why is the sky blue?"
STEPS = torch.zeros(1, dtype=torch.int32).share_memory_()  # forwards computed, seen from both sides of the fork


@pytest.fixture(scope="module")
def app(tmp_path_factory) -> ModuleType:
    folder = save_random_olmoe(tmp_path_factory.mktemp("model"), "olmoe_experts")
    os.environ |= {"OLMOE_MODEL": str(folder), "OLMOE_DTYPE": "float32", "PORT": str(free_port())}
    computed = pytorch.forward

    def counted(*args, **kwargs):
        STEPS.add_(1)
        return computed(*args, **kwargs)

    pytorch.forward = counted  # before the first worker is forked
    return importlib.import_module("app")


@pytest.fixture(autouse=True)
def _fresh():
    SERVICE.reset()


def request(k: int = 8, prompt: str = PROMPT, max_new_tokens: int = 24) -> GenerationRequest:
    return GenerationRequest((Message("user", prompt),), SamplingParams(0, 1, max_new_tokens, 0), RoutingPolicy(k))


def reply(app: ModuleType, **asked) -> tuple[list[Event], list[int]]:
    events = list(app.run_on_gpu("chat", request(**asked)))
    return events, [event.token_id for event in events if isinstance(event, Token)]


def stock_reply(k: int) -> list[int]:
    model = random_olmoe("olmoe_experts", num_experts_per_tok=k)
    prompt = byte_tokenizer().apply_chat_template([{"role": "user", "content": PROMPT}], add_generation_prompt=True,
                                                  return_tensors="pt", return_dict=True)
    tokens = model.generate(**prompt, max_new_tokens=24, do_sample=False)[0, prompt["input_ids"].shape[1]:].tolist()
    return tokens[:-1] if tokens[-1] == model.config.eos_token_id else tokens


def test_the_model_waits_on_an_emulated_device(app):
    assert app.settings.on_zero_gpu and app.loaded.info.device == "ZeroGPU"
    assert {parameter.device.type for parameter in app.loaded.model.parameters()} == {"cuda"}


def test_a_chat_crosses_event_by_event(app):
    events, tokens = reply(app)
    assert isinstance(events[0], Started) and isinstance(events[1], Prefilled) and isinstance(events[-1], Finished)
    assert events[-1].new_tokens == len(tokens) > 4
    assert all(same(pickle.loads(pickle.dumps(event)), event) for event in events)


def test_k_is_set_anew_on_a_warm_worker(app):
    reply(app)
    SERVICE.reset()
    for k in (1, 64, 8, 1):
        events, tokens = reply(app, k=k)
        assert tokens == stock_reply(k), f"k = {k}"
        assert events[0].num_experts_per_tok == k
        assert all(event.routing.selected_experts.shape[-1] == k for event in events[1:-1])
    assert len(SERVICE.queries("/schedule")) == 4 and not SERVICE.queries("/allow")  # no new worker was let in


def test_two_ks_differ_here():
    assert stock_reply(1) != stock_reply(8) != stock_reply(64)


def test_stop_ends_the_computation_and_the_next_chat_begins_at_once(app):
    STEPS.zero_()
    events = app.run_on_gpu("chat", request(max_new_tokens=400))
    while not isinstance(next(events), Token):
        pass
    events.close()
    stopped_at = int(STEPS)
    assert 0 < stopped_at < 200
    time.sleep(0.2)
    assert int(STEPS) == stopped_at
    assert reply(app)[1] == stock_reply(8)


def test_a_refusal_keeps_its_sentence(app):
    with pytest.raises(gr.Error) as refused:
        reply(app, prompt="word " * 400)
    assert "tokens" in refused.value.message and "512" in refused.value.message
    assert reply(app)[1] == stock_reply(8)


def kill_the_worker() -> None:
    """As the system does when a container's memory is full. Idle ones of earlier refusals go with it."""
    workers = multiprocessing.active_children()
    assert workers
    for worker in workers:
        os.kill(worker.pid, signal.SIGKILL)


def test_a_worker_that_dies_is_told_in_words_and_the_next_chat_works(app):
    events = app.run("chat", request(max_new_tokens=400))
    while not isinstance(next(events), Token):
        pass
    kill_the_worker()
    with pytest.raises(gr.Error) as told:
        list(events)
    assert told.value.message == "The GPU was taken away in the middle of the work. Try again."
    assert reply(app)[1] == stock_reply(8)
    assert app.traffic.counts()["running"] == 0


def test_short_replies_ask_for_less_of_the_quota(app):
    reply(app, max_new_tokens=1)
    short = float(SERVICE.queries("/schedule")[0]["durationSeconds"])
    assert short <= 20
    seconds = [app._seconds_needed("chat", request(max_new_tokens=n)) for n in (1, 1024)]
    assert seconds[0] < seconds[1] <= 60


@pytest.fixture(scope="module")
def client(app):
    from olmoe_space.ui.page import launch_options
    app.demo.launch(prevent_thread_lock=True, quiet=True, **launch_options(app.settings))
    yield Client(app.demo.local_url, verbose=False)
    app.demo.close()


def ask(client: Client, message: str = PROMPT, k: float = 8, max_new_tokens: float = 24):
    return client.submit(message=message, num_experts_per_tok=k, temperature=0, max_new_tokens=max_new_tokens, seed=0,
                         api_name="/generate")


def test_served_replies_are_those_of_the_model(app, client):
    answer = ask(client, k=16).result(60)
    assert answer["num_experts_per_tok"] == 16 and answer["new_tokens"] == len(stock_reply(16))
    counts = torch.tensor(answer["expert_counts"])
    assert counts.shape == (3, 64) and (counts.sum(1) == answer["new_tokens"] * 16).all()


def test_several_visitors_at_once_are_all_answered(client):
    with ThreadPoolExecutor(4) as visitors:
        answers = list(visitors.map(lambda k: ask(client, k=k).result(120), (1, 8, 16, 64)))
    assert [answer["num_experts_per_tok"] for answer in answers] == [1, 8, 16, 64]
    assert [answer["new_tokens"] for answer in answers] == [len(stock_reply(k)) for k in (1, 8, 16, 64)]


def test_a_visitor_who_leaves_does_not_block_the_next(client):
    job = ask(client, max_new_tokens=400)
    next(iter(job))
    job.cancel()
    assert ask(client).result(60)["finish_reason"] in ("stop", "length")


def test_a_visitor_whose_worker_dies_reads_so_and_asks_again(client):
    job = ask(client, max_new_tokens=400)
    next(iter(job))
    kill_the_worker()
    with pytest.raises(Exception, match="The GPU was taken away in the middle of the work"):
        job.result(60)
    assert ask(client).result(60)["new_tokens"] == len(stock_reply(8))


def test_errors_arrive_as_sentences(client):
    with pytest.raises(Exception, match="context of 512"):
        ask(client, message="word " * 400).result(60)
    with pytest.raises(Exception, match="whole number from 1 to 64; got 65"):
        ask(client, k=65).result(60)


def test_a_spent_quota_arrives_as_the_hubs_own_sentence(client):
    SERVICE.quota_left_s = 1
    with pytest.raises(Exception, match="GPU limit|quota"):
        ask(client).result(60)
