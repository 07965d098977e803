"""Through replicas a visitor gets what one engine gives: events, refusals and Stop, on the page and by HTTP."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from olmoe_space.__main__ import main
from olmoe_space.events import Token
from olmoe_space.lab.jobs import computed
from olmoe_space.request import GenerationRequest, RoutingPolicy
from olmoe_space.rules import parse
from olmoe_space.scale.ray_engine import SILENCE_S, RayEngine, seeded
from olmoe_space.shell import serve as command
from olmoe_space.trace import record
from olmoe_space.ui.replicas import in_words

from ..serving import Server, free_port, serve
from .conftest import Nodes
from .replicas import HOT, SETTINGS, Reply, alone, here, in_background, ready, request, wait_for
from .tls import tls_before

POLICIES = [RoutingPolicy(4), RoutingPolicy(16, "renormalised"), RoutingPolicy(8, "mass_preserving"),
            RoutingPolicy(rule=parse("top-p:0.4")), RoutingPolicy(8, expert_scales=((0, 3, 0.0),))]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As a replica of one core has: PyTorch's sums are rounded otherwise with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.in_words() or policy.weighting)
def test_the_trace_is_the_same(nodes: Nodes, policy: RoutingPolicy, one_thread: None) -> None:
    asked = GenerationRequest(request(3).messages, request(3, 12).sampling, policy)
    local, remote = record(computed(here().engine, "chat", asked)), record(nodes.engine.run("chat", asked))
    for name, value in vars(local).items():
        assert np.array_equal(getattr(remote, name), value), name


def test_other_jobs_are_the_same(nodes: Nodes) -> None:
    assert nodes.engine.info == here().info
    columns = [request(seed, 8) for seed in (0, 1, 2)]
    tokens = [[(row, event.token_id) for row, event in run("compare", columns) if isinstance(event, Token)]
              for run in (nodes.engine.run, lambda *job: computed(here().engine, *job))]
    assert tokens[0] == tokens[1] and len(tokens[0]) >= 20
    texts = (("one", "The sea is blue."), ("other", "The fox is red."))
    surveys = [list(run("survey", texts, RoutingPolicy(8)))
               for run in (nodes.engine.run, lambda *job: computed(here().engine, *job))]
    assert len(surveys[0]) == 3 and [str(one) for one in surveys[0]] == [str(one) for one in surveys[1]]


def test_a_refusal_keeps_its_words(nodes: Nodes) -> None:
    asked = GenerationRequest(request(0).messages, routing=RoutingPolicy(8, expert_scales=((99, 0, 2.0),)))
    with pytest.raises(ValueError) as local:
        list(computed(here().engine, "chat", asked))
    with pytest.raises(ValueError) as remote:
        list(nodes.engine.run("chat", asked))
    assert str(remote.value) == str(local.value)


def test_stop_ends_the_work(nodes: Nodes) -> None:
    events: Any = nodes.engine.run("chat", request(1, 900))
    next(events)
    assert sum(one["busy"] for one in ready(nodes.engine, 2)) == 1
    events.close()
    wait_for(lambda: not sum(one["busy"] for one in nodes.engine.state()["replicas"]), limit_s=5)


def test_chats_are_spread_and_each_is_its_own(nodes: Nodes) -> None:
    replies = [reply.result(120) for reply in in_background(nodes.engine, range(6))]
    assert [tuple(reply.token_ids) for reply in replies] == [alone(seed) for seed in range(6)]
    assert {reply.answered_by for reply in replies} == {"replica 1", "replica 2"}


def test_an_openai_client_gets_the_same(nodes: Nodes) -> None:
    local = record(computed(here().engine, "chat", request(2, 16)))
    answer = httpx.post(f"{nodes.fleet.address.replace('ray', 'http', 1)}/v1/chat/completions", trust_env=False,
                        timeout=60, json={
        "model": here().info.name, "messages": [{"role": "user", "content": request(2).prompt}], "temperature": HOT,
        "top_p": 1, "max_tokens": 16, "seed": 2, "num_experts_per_tok": 16, "routed_experts": True})
    message = answer.json()["choices"][0]["message"]
    assert message["content"] == local.text("decode")
    assert [token["id"] for token in message["routed_experts"]] == local.token_ids[local.prompt_tokens:].tolist()


def test_two_front_ends_share_the_replicas(nodes: Nodes, tmp_path: Path) -> None:
    from gradio_client import Client

    def ask(server: Server) -> Any:
        answer = Client(server.url, verbose=False).predict(
            message=request(2).prompt, num_experts_per_tok=16, temperature=HOT, top_p=1, max_new_tokens=16, seed=2,
            api_name="/generate")
        return answer, httpx.get(f"{server.url}healthz", trust_env=False).json()

    engine = {"OLMOE_ENGINE": nodes.fleet.address}
    with serve(tmp_path / "one", engine) as one, serve(tmp_path / "other", engine) as other, \
            ThreadPoolExecutor() as threads:
        told = list(threads.map(ask, (one, other) * 2))
        assert "Traceback" not in one.log + other.log
    for answer, health in told:
        assert answer["text"] == record(computed(here().engine, "chat", request(2, 16))).text("decode")
        assert answer["answered_by"] in ("replica 1", "replica 2")
        assert health["model"] == here().info.name and health["engine"] == nodes.fleet.address
        assert [(one["replica"], one["slots"]) for one in health["replicas"]] == [("1", 8), ("2", 8)]


def test_through_tls_while_all_slots_are_taken(nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 48 others, so that the answer is waited for longer than a replica may be silent."""
    seeds = [*range(16)] * 3
    with tls_before(nodes.fleet.port, tmp_path / "authority.pem") as port:
        monkeypatch.setattr("olmoe_space.scale.ray_engine.PATIENCE_S", 1.0)
        with pytest.raises(ValueError, match="CERTIFICATE_VERIFY_FAILED"):
            RayEngine(f"rays://127.0.0.1:{port}", SETTINGS.max_request_s)
        monkeypatch.undo()
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
        engine = RayEngine(f"rays://127.0.0.1:{port}", SETTINGS.max_request_s)
        others = in_background(nodes.engine, seeds)
        wait_for(lambda: any(other.done() for other in others))  # so all have asked, and most still wait
        asked = time.monotonic()
        waiting: Any = engine.run("chat", request(3))
        reply = Reply([next(waiting)])
        assert time.monotonic() - asked > SILENCE_S
        assert tuple(reply.read(waiting).token_ids) == alone(3)
    assert [tuple(other.result(120).token_ids) for other in others] == [alone(seed) for seed in seeds]


def test_a_seed_is_drawn_before_it_is_sent() -> None:
    one, other = seeded([request(None), request(7)])
    assert isinstance(one.sampling.seed, int) and other == request(7)
    assert seeded((request(None), "text", 3))[1:] == ("text", 3)


def test_where_nobody_answers_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("olmoe_space.scale.ray_engine.PATIENCE_S", 1.0)
    address = f"ray://127.0.0.1:{free_port()}"
    with pytest.raises(ValueError, match="does not answer .*olmoe_space serve"):
        RayEngine(address, 1)
    told = {"model": vars(here().info), "jobs": ["chat"], "most_slots": 1, "replicas": []}
    with pytest.raises(ValueError, match="No machine answers.* Ask again"):
        list(RayEngine(address, 1, told=told).run("chat", request(0)))


@pytest.mark.parametrize("address", ["ray://here", "ray://:80", "ray://a:b", "ray://a:1,b"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="^OLMOE_ENGINE must be"):
        RayEngine(address, 1)


def test_how_many_replicas() -> None:
    assert command.replicas_of("3") == (3, 3) and command.replicas_of("1..4") == (1, 4)
    for wrong in ("0", "4..1", "two", "1..", ""):
        with pytest.raises(ValueError, match="--replicas"):
            command.replicas_of(wrong)


@pytest.mark.parametrize(("typed", "said"), [
    (["--replicas", "2"], "Ray is not installed.*pip install -r requirements-scale.txt"),
    (["--detach"], "--detach .* name it with --address")])
def test_what_serve_cannot_do_is_said(typed: list[str], said: str, monkeypatch: pytest.MonkeyPatch,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert main(["serve", *typed]) == 2
    assert re.search(said, capsys.readouterr().err)


def test_the_line_under_the_header() -> None:
    replicas = [{"busy": 3, "slots": 16}, {"busy": 0, "slots": 16}]
    assert in_words({"told_s_ago": 0.1, "replicas": replicas}) == "2 replicas · busy 3 of 16, 0 of 16"
    assert in_words({"told_s_ago": 0.1, "replicas": replicas[1:]}) == "1 replica · busy 0 of 16"
    assert in_words({"told_s_ago": 31.2, "replicas": replicas}) == "Not every replica has answered for 31 s."
    assert in_words({"engine": "https://192.0.2.1/v1"}) == ""
