"""The endpoints as programs use them: gradio_client against a served page."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from .scripted import HOSTILE, ScriptedServer, serve_scripted
from .serving import Server


@pytest.fixture(scope="module")
def scripted() -> Iterator[ScriptedServer]:
    with serve_scripted() as server:
        yield server


@pytest.fixture(scope="module")
def client(scripted: ScriptedServer) -> Client:
    return Client(scripted.url, verbose=False)


def generate(client: Client, message: Any = "Hello there", **fields: Any) -> dict[str, Any]:
    return client.predict(message=message, api_name="/generate", **fields)


def test_both_endpoints_are_documented_with_types(client: Client) -> None:
    api = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(api) == {"/generate", "/choose_experts"}
    parameters = {p["parameter_name"]: p for p in api["/generate"]["parameters"]}
    assert list(parameters) == ["message", "history", "mode", "num_experts_per_tok", "k_min", "k_max", "weighting",
                                "system_prompt", "temperature", "top_p", "max_new_tokens", "seed", "rule", "parameter"]
    assert not parameters["message"]["parameter_has_default"]
    assert all(p["parameter_has_default"] for name, p in parameters.items() if name != "message")
    assert parameters["num_experts_per_tok"]["python_type"]["type"] == "int"
    assert "fixed" in parameters["mode"]["python_type"]["type"]


def test_generate_streams_and_ends_with_everything(client: Client) -> None:
    job = client.submit(message="long and on", num_experts_per_tok=16, seed=5, max_new_tokens=60,
                        api_name="/generate")
    last = job.result()
    seen = job.outputs()
    assert len(seen) > 3 and all(last["text"].startswith(one["text"]) for one in seen)
    assert last["num_experts_per_tok"] == 16 and last["seed"] == 5 and last["weighting"] == "raw"
    assert last["finish_reason"] == "length" and last["new_tokens"] == 60 and last["prompt_tokens"] == 3
    assert np.array(last["expert_counts"]).shape == (16, 64)
    assert (np.array(last["expert_counts"]).sum(1) == 60 * 16).all()
    assert (np.array(last["prompt_expert_counts"]).sum(1) == 3 * 16).all()
    assert 0 < last["routing_mass"] < 1 and 0 < last["routing_entropy"] < np.log(64)
    assert last["ttft_s"] == 0.15 and last["tokens_per_s"] == 50 and last["notices"] == []
    assert "choice" not in last


def test_adaptive_mode_says_why(client: Client) -> None:
    prompt = "Prove that every eigenvalue of a unitary matrix has modulus one."
    reply = generate(client, prompt, mode="adaptive", k_min=4, k_max=16)
    choice = client.predict(message=prompt, k_min=4, k_max=16, api_name="/choose_experts")
    assert reply["choice"] == choice and reply["num_experts_per_tok"] == choice["k"] > 4
    assert set(choice) >= {"k", "score", "contributions", "terms"}
    assert client.predict(message="Hi!", api_name="/choose_experts")["k"] < choice["k"]


def test_a_history_is_read_and_nothing_else(client: Client, scripted: ScriptedServer) -> None:
    history = [{"role": "user", "content": "My name is Ann."}, {"role": "assistant", "content": "Hello Ann."}]
    generate(client, "Who am I?", history=history, system_prompt="Be brief.", temperature=0, top_p=1)
    request = scripted.model.asked[-1]
    assert [m.role for m in request.messages] == ["system", "user", "assistant", "user"]
    assert request.sampling.temperature == 0 and request.sampling.top_p == 1


@pytest.mark.parametrize("seed", [None, -1])
def test_a_fresh_seed_is_asked_for(client: Client, scripted: ScriptedServer, seed: int | None) -> None:
    generate(client, seed=seed)
    assert scripted.model.asked[-1].sampling.seed is None


@pytest.mark.parametrize("fields, words", [
    ({"message": "   "}, "empty"),
    ({"message": "\u200b\u200d"}, "invisible"),
    ({"message": "x" * 1_000_000}, "1,000,000 characters"),
    ({"message": 12}, "must be text"),
    ({"message": "please refuse this"}, "2,000 tokens"),
    ({"history": "hello"}, "history must be a list"),
    ({"history": [{"role": "user"}]}, "History entry 1"),
    ({"mode": "clever"}, "fixed, adaptive or per-token"),
    ({"num_experts_per_tok": 0}, "from 1 to 64"),
    ({"num_experts_per_tok": 65}, "from 1 to 64"),
    ({"num_experts_per_tok": 3.5}, "whole number"),
    ({"num_experts_per_tok": "many"}, "whole number"),
    ({"num_experts_per_tok": "NaN"}, "whole number"),
    ({"k_min": 9, "k_max": 3}, "swap"),
    ({"weighting": "heavy"}, "renormalised"),
    ({"temperature": -1}, "at least 0"),
    ({"temperature": "nan"}, "at least 0"),
    ({"top_p": 0}, "at most 1"),
    ({"top_p": 2}, "at most 1"),
    ({"max_new_tokens": 0}, "from 1 to 1024"),
    ({"max_new_tokens": 5000}, "1024; got 5000"),
    ({"seed": "lucky"}, "Seed"),
])
def test_bad_input_is_an_error_in_words(client: Client, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(AppError, match=words):
        generate(client, **fields)


def test_choose_experts_refuses_too(client: Client) -> None:
    for fields, words in (({"message": " "}, "empty"), ({"message": "Hi", "k_min": 9, "k_max": 3}, "swap"),
                          ({"message": "Hi", "k_max": "all"}, "whole number")):
        with pytest.raises(AppError, match=words):
            client.predict(api_name="/choose_experts", **fields)


def test_odd_text_comes_back_as_it_went(client: Client) -> None:
    odd = f"NUL \x00 rtl \u202e {HOSTILE}".replace("hostile", "")
    assert generate(client, odd)["text"] == f"You said: {odd}"


def test_cancel_ends_the_computation(client: Client, scripted: ScriptedServer) -> None:
    job = client.submit(message="long", max_new_tokens=1000, api_name="/generate")
    _until(lambda: len(job.outputs()) > 2)
    assert scripted.model.running == 1
    job.cancel()
    _until(lambda: scripted.model.running == 0)


def test_two_callers_do_not_share_anything(client: Client, scripted: ScriptedServer) -> None:
    other = Client(scripted.url, verbose=False)
    jobs = [client.submit(message="long", num_experts_per_tok=4, max_new_tokens=30, api_name="/generate"),
            other.submit(message="long", num_experts_per_tok=32, max_new_tokens=30, api_name="/generate")]
    assert [job.result()["num_experts_per_tok"] for job in jobs] == [4, 32]


def test_the_real_model_answers(server: Server) -> None:
    client = Client(server.url, verbose=False)
    fields = {"temperature": 0, "max_new_tokens": 12, "seed": 0}
    few, again, all_of_them = (generate(client, "The sky is", num_experts_per_tok=k, **fields) for k in (8, 8, 64))
    assert few["text"] == again["text"] and few["new_tokens"] == again["new_tokens"] >= 1
    assert (np.array(all_of_them["expert_counts"]) == all_of_them["new_tokens"]).all()
    assert all_of_them["routing_mass"] == pytest.approx(1)
    assert few["routing_mass"] < 1 and few["expert_counts"] != all_of_them["expert_counts"]


def _until(condition: Any, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_the_server_tells_how_it_is_and_logs_no_text(server: Server) -> None:
    client = Client(server.url, verbose=False)
    client.predict(message="The password is swordfish", max_new_tokens=4, seed=0, num_experts_per_tok=2,
                   api_name="/generate")
    answer = httpx.get(f"{server.url}healthz")
    state = answer.json()
    assert answer.headers["cache-control"] == "no-store" and state["status"] == "ok"
    assert (state["model"], state["dtype"], state["device"]) == ("olmoe-tiny", "float32", "CPU")
    assert state["running"] == 0 and state["waiting"] == 0 and sum(state["ended"].values()) >= 1
    assert state["slots"] >= 1 and state["memory_bytes"] > 2**28 and state["uptime_s"] > 0
    logged = [json.loads(line[line.index("{"):]) for line in server.log.splitlines() if "olmoe_space.requests" in line]
    assert {"k": 2, "new_tokens": 4, "outcome": "length"}.items() <= logged[-1].items()
    assert "swordfish" not in server.log
