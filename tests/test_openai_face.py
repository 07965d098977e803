"""The face as programs use it: the official client against a real server with olmoe-tiny, and odd bodies by hand."""

from __future__ import annotations

import base64
import inspect
import json
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from olmoe_space import load
from olmoe_space.lab.jobs import computed
from olmoe_space.library import Olmoe
from olmoe_space.scale.openai_face import build_face
from olmoe_space.scale.openai_reply import UntilStop
from olmoe_space.scale.openai_request import KNOWN, NO_CONCERN, NOTHING_ASKED
from olmoe_space.settings import EMBEDDED_MODEL, ApiKey
from olmoe_space.traffic import Traffic

from .serving import REPOSITORY, in_a_thread, served, until

ASK = [{"role": "user", "content": "Why is the sky blue?"}]
DRAWN = {"temperature": 1.0, "top_p": 1.0, "seed": 3}


@dataclass(frozen=True)
class Face:
    olmoe: Olmoe
    traffic: Traffic

    def run(self, name: str, *arguments: Any) -> Iterator[Any]:
        return self.traffic.watched(name, computed(self.olmoe.engine, name, *arguments))

    @property
    def running(self) -> int:
        return self.traffic.counts()["running"]

    def app(self, **changed: Any) -> Any:
        return build_face(self.olmoe.info, self.run, replace(self.olmoe.settings, **changed))


@pytest.fixture(scope="module")
def face() -> Face:
    return Face(load(str(EMBEDDED_MODEL)), Traffic())


@pytest.fixture(scope="module")
def url(face: Face) -> Iterator[str]:
    with served(face.app(max_concurrent_chats=2, max_queue=2)) as address:
        yield address


def client_of(url: str, key: str = "any") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=60,
                         http_client=httpx.Client(trust_env=False))


@pytest.fixture(scope="module")
def client(url: str) -> openai.OpenAI:
    return client_of(url)


def ask(client: openai.OpenAI, messages: Any = ASK, **fields: Any) -> Any:
    return client.chat.completions.create(**{"model": "olmoe-tiny", "messages": messages, "max_tokens": 12} | fields)


def post(url: str, body: Any, **options: Any) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(f"{url}/v1/chat/completions", content=content, timeout=60, trust_env=False, **options)


def test_models(client: openai.OpenAI, face: Face) -> None:
    [model] = client.models.list().data
    assert model.id == "olmoe-tiny" and model.model_extra["olmoe"]["num_experts"] == 64
    assert client.models.retrieve("olmoe-tiny") == model
    with pytest.raises(openai.NotFoundError, match="olmoe-tiny"):
        client.models.retrieve("gpt-4o")


@pytest.mark.parametrize(("k", "weighting"), [(None, None), (1, "raw"), (64, "raw"), (5, "mass_preserving")])
def test_the_reply_is_the_librarys(client: openai.OpenAI, face: Face, k: int | None, weighting: str | None) -> None:
    expected = face.olmoe.chat(ASK[0]["content"], num_experts_per_tok=k, weighting=weighting or "raw",
                               max_new_tokens=12, **DRAWN)
    extra = {"num_experts_per_tok": k, "weighting": weighting}
    reply = ask(client, extra_body=extra, **DRAWN)
    assert reply.choices[0].message.content == expected["text"]
    assert reply.choices[0].finish_reason == expected["finish_reason"]
    assert reply.usage.to_dict() == {"prompt_tokens": expected["prompt_tokens"],
                                     "completion_tokens": expected["new_tokens"],
                                     "total_tokens": expected["prompt_tokens"] + expected["new_tokens"]}
    told = reply.model_extra["olmoe"]
    assert (told["num_experts_per_tok"], told["weighting"], told["seed"]) == (k or 8, weighting or "raw", 3)
    assert told["mean_k"] == (k or 8)
    chunks = list(ask(client, extra_body=extra, stream=True, stream_options={"include_usage": True}, **DRAWN))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == expected["text"]
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[0].model_extra["olmoe"]["seed"] == 3
    assert chunks[-2].choices[0].finish_reason == expected["finish_reason"]
    assert not chunks[-1].choices and chunks[-1].usage == reply.usage


def test_the_asynchronous_client_streams_the_same(client: openai.OpenAI, url: str) -> None:
    async def text() -> str:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0,
                                      http_client=httpx.AsyncClient(trust_env=False)) as other:
            stream = await other.chat.completions.create(model="olmoe-tiny", messages=ASK, max_tokens=12, stream=True,
                                                         **DRAWN)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert in_a_thread(text()) == ask(client, **DRAWN).choices[0].message.content


def test_readmes_example(url: str) -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    source = readme.split("## The OpenAI-compatible face\n")[1].split("```python\n")[1].split("```")[0]
    assert source.count("http://127.0.0.1:7860") == 1
    run = subprocess.run([sys.executable, "-c", source.replace("http://127.0.0.1:7860", url)], capture_output=True,
                         text=True, timeout=100)
    assert run.returncode == 0, run.stderr
    text, experts = run.stdout.splitlines()
    assert text.endswith(" 16") and len(json.loads(experts)) == 16


def test_what_is_left_out_is_as_on_the_page(client: openai.OpenAI, face: Face) -> None:
    reply = client.chat.completions.create(model="olmoe-tiny", messages=ASK, seed=4)
    assert reply.choices[0].message.content == face.olmoe.chat(ASK[0]["content"], seed=4)["text"]
    drawn = ask(client).model_extra["olmoe"]["seed"]
    assert drawn >= 0 and drawn != ask(client).model_extra["olmoe"]["seed"]


def test_the_conversation_arrives_whole(client: openai.OpenAI, face: Face) -> None:
    past = [{"role": "user", "content": "My name is Ada."}, {"role": "assistant", "content": "Hello Ada."}]
    expected = face.olmoe.chat("Who am I?", past, system_prompt="Be brief.", temperature=0, max_new_tokens=12)
    assistant = {"role": "assistant", "content": "Hello Ada.", "refusal": None, "tool_calls": [], "routed_experts": [1]}
    parts = [{"type": "text", "text": "Who am"}, {"type": "text", "text": " I?"}]
    for role in ("system", "developer"):
        reply = ask(client, [{"role": role, "content": "Be brief."}, past[0], assistant,
                             {"role": "user", "content": parts}], temperature=0)
        assert reply.choices[0].message.content == expected["text"]
        assert reply.usage.prompt_tokens == expected["prompt_tokens"]


@pytest.mark.parametrize("extra", [{"num_experts_per_tok": 3}, {"num_experts_per_tok": "top-p:0.4", "k_max": 10}])
def test_routed_experts_are_those_of_the_trace(client: openai.OpenAI, face: Face, extra: dict[str, Any]) -> None:
    fields = {"mode": "per-token", "rule": "top-p", "parameter": 0.4, "k_max": 10} if "k_max" in extra else extra
    trace = face.olmoe.trace(ASK[0]["content"], temperature=0, max_new_tokens=6, **fields)
    wanted = {"routed_experts": True, "prompt_routed_experts": True, "router_logits": True}
    reply = ask(client, temperature=0, max_tokens=6, extra_body=extra | wanted)
    message = reply.choices[0].message.model_extra
    tokens = message["prompt_routed_experts"] + message["routed_experts"]
    assert len(message["prompt_routed_experts"]) == trace.prompt_tokens and len(tokens) == trace.num_tokens
    for t, token in enumerate(tokens):
        assert (token["id"], token["text"]) == (trace.token_ids[t], trace.texts[t])
        logits = np.frombuffer(base64.b64decode(token["router_logits"]), "<f4").reshape(16, 64)
        assert (logits == trace.router_logits[t]).all()
        for layer, k in enumerate(trace.active_experts[t]):
            assert token["selected_experts"][layer] == trace.selected_experts[t, layer, :k].tolist()
            np.testing.assert_allclose(token["routing_weights"][layer], trace.routing_weights[t, layer, :k], atol=5e-7)
    assert reply.model_extra["olmoe"]["mean_k"] == pytest.approx(trace.mean_k("decode"), abs=1e-4)
    deltas = [chunk.choices[0].delta.model_extra for chunk in ask(client, temperature=0, max_tokens=6, stream=True,
                                                                 extra_body=extra | wanted)]
    for name in ("routed_experts", "prompt_routed_experts"):
        assert [token for delta in deltas for token in delta.get(name, [])] == message[name]
    assert ask(client).choices[0].message.model_extra == {}


def test_k_is_chosen_from_the_prompt(client: openai.OpenAI, face: Face) -> None:
    prompt = "Prove that every eigenvalue of a unitary matrix has modulus one."
    told = ask(client, [{"role": "user", "content": prompt}], max_tokens=2,
               extra_body={"num_experts_per_tok": "adaptive"}).model_extra["olmoe"]
    choice = face.olmoe.choose_experts(prompt)
    assert told["num_experts_per_tok"] == choice.k and told["choice"]["score"] == pytest.approx(choice.score, abs=1e-3)


def test_a_reply_ends_before_its_stop_text(client: openai.OpenAI) -> None:
    whole = ask(client, temperature=0, max_tokens=30).choices[0].message.content
    middle = whole[7:10]
    for stop in (middle, ["never said", middle]):
        reply = ask(client, temperature=0, max_tokens=30, stop=stop)
        assert reply.choices[0].message.content == whole[:whole.index(middle)]
        assert reply.choices[0].finish_reason == "stop" and reply.usage.completion_tokens < 12
        streamed = ask(client, temperature=0, max_tokens=30, stop=stop, stream=True)
        assert "".join(c.choices[0].delta.content or "" for c in streamed) == whole[:whole.index(middle)]


@given(text=st.text("ab.", max_size=30), cuts=st.lists(st.integers(0, 30), max_size=8),
       stops=st.lists(st.text("ab.", min_size=1, max_size=4), max_size=3))
def test_stop_texts_are_found_however_the_text_is_cut(text: str, cuts: list[int], stops: list[str]) -> None:
    until_stop, at = UntilStop(stops), sorted({0, *(min(cut, len(text)) for cut in cuts), len(text)})
    shown = "".join(until_stop.add(text[a:b]) for a, b in zip(at, at[1:], strict=False)) + until_stop.rest()
    found = any(stop in text for stop in stops)
    assert until_stop.reached == found
    assert text.startswith(shown) and (shown == text or any(text.startswith(stop, len(shown)) for stop in stops))
    assert not any(stop in shown for stop in stops)


def test_every_parameter_of_the_client_is_known() -> None:
    parameters = set(inspect.signature(openai.OpenAI(api_key="x").chat.completions.create).parameters)
    assert parameters - {"extra_headers", "extra_query", "extra_body", "timeout"} <= KNOWN | NO_CONCERN | set(
        NOTHING_ASKED)


def test_what_asks_for_nothing_special_passes(client: openai.OpenAI) -> None:
    ask(client, max_tokens=1, n=1, logprobs=False, tools=[], tool_choice="none", response_format={"type": "text"},
        user="me", store=False, frequency_penalty=0, logit_bias={}, stop=None, metadata={"a": "b"})


@pytest.mark.parametrize(("fields", "status", "param", "words"), [
    ({"model": "gpt-4o"}, 404, "model", "olmoe-tiny"),
    ({"messages": []}, 400, "messages", "must be a list"),
    ({"messages": "hello"}, 400, "messages", "must be a list"),
    ({"messages": [{"role": "user", "content": "  "}]}, 400, None, "empty"),
    ({"messages": [{"role": "assistant", "content": "Hi"}]}, 400, "messages", "last message must be the user's"),
    ({"messages": [*ASK, {"role": "system", "content": "Hi"}, *ASK]}, 400, "messages", "must come first"),
    ({"messages": [{"role": "tool", "content": "Hi"}, *ASK]}, 400, "messages", "role must be"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, 400, "messages",
     "only text"),
    ({"messages": [ASK[0] | {"name": "Ada"}]}, 400, "messages", "'name', which is not supported"),
    ({"messages": [{"role": "user", "content": "long " * 5000}]}, 400, None, "tokens; at most"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, 400, "tools", "not supported"),
    ({"n": 2}, 400, "n", "not supported"),
    ({"logprobs": True}, 400, "logprobs", "not supported"),
    ({"response_format": {"type": "json_object"}}, 400, "response_format", "not supported"),
    ({"frequency_penalty": 0.5}, 400, "frequency_penalty", "not supported"),
    ({"stop": ["a"] * 5}, 400, "stop", "up to 4"),
    ({"stream_options": {"other": True}}, 400, "stream_options", "include_usage"),
    ({"max_tokens": 5000}, 400, None, "from 1 to 1024"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, 400, "max_tokens", "differ"),
    ({"temperature": -1}, 400, None, "at least 0"),
    ({"seed": "lucky"}, 400, None, "Seed"),
    ({"extra_body": {"num_experts_per_tok": 65}}, 400, None, "from 1 to 64"),
    ({"extra_body": {"num_experts_per_tok": 8, "rule": "top-p"}}, 400, "rule", "not both"),
    ({"extra_body": {"parameter": 0.4}}, 400, "parameter", "name the rule"),
    ({"extra_body": {"weighting": "heavy"}}, 400, None, "renormalised"),
    ({"extra_body": {"routed_experts": 1}}, 400, "routed_experts", "true or false"),
    ({"extra_body": {"top_k": 5}}, 400, "top_k", "Unrecognized request argument: 'top_k'"),
])
@pytest.mark.parametrize("stream", [False, True])
def test_refusals_in_openais_words(client: openai.OpenAI, fields: dict[str, Any], status: int, param: str | None,
                                   words: str, stream: bool) -> None:
    with pytest.raises(openai.APIStatusError, match=words) as refused:
        ask(client, **{"messages": ASK, "stream": stream} | fields)
    assert refused.value.status_code == status
    assert refused.value.body["param"] == param and refused.value.body["type"] == "invalid_request_error"


def test_other_paths_are_told_what_there_is(url: str) -> None:
    for method, path, status in (("POST", "/v1/embeddings", 404), ("GET", "/v1/chat/completions", 405),
                                 ("GET", "/", 404)):
        answer = httpx.request(method, url + path, trust_env=False)
        assert answer.status_code == status and "/v1/chat/completions" in answer.json()["error"]["message"]


def test_keys_and_limits(face: Face, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    keys = (ApiKey("swordfish", 2), ApiKey("halibut", None, 5))
    with served(face.app(api_keys=keys)) as url:
        for key in ("wrong", "swordfis"):
            with pytest.raises(openai.AuthenticationError) as unknown:
                client_of(url, key).models.list()
            assert unknown.value.code == "invalid_api_key"
            with pytest.raises(openai.AuthenticationError):
                ask(client_of(url, key))
        assert post(url, {}).headers["WWW-Authenticate"] == "Bearer"
        for _ in range(2):
            ask(client_of(url, "swordfish"), max_tokens=1)
        with pytest.raises(openai.RateLimitError, match="2 requests a minute") as limited:
            ask(client_of(url, "swordfish"), max_tokens=1)
        assert 0 < int(limited.value.response.headers["Retry-After"]) <= 60
        ask(client_of(url, "halibut"), max_tokens=1, stream=True).close()
        until(lambda: face.running == 0)
        with pytest.raises(openai.RateLimitError, match="5 tokens a minute"):  # the prompt alone has more
            ask(client_of(url, "halibut"), max_tokens=1)
    assert "swordfis" not in caplog.text and "halibut" not in caplog.text


def began(url: str, **fields: Any) -> socket.socket:
    """A connection over which a reply was asked for that takes some ten seconds: so hot that the model finds no end."""
    body = {"model": "olmoe-tiny", "messages": ASK, "max_tokens": 600, "temperature": 9, "top_p": 1,
            "num_experts_per_tok": 64, "stream": True}
    content = json.dumps(body | fields).encode()
    connection = socket.create_connection((httpx.URL(url).host, httpx.URL(url).port))
    connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n" % len(content)
                       + content)
    return connection


@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_ends_the_computation(face: Face, url: str, stream: bool) -> None:
    ended = face.traffic.counts()["ended"].get("left", 0)
    with began(url, stream=stream):
        until(lambda: face.running == 1)
        time.sleep(0.3)
        assert face.running == 1
    until(lambda: face.traffic.counts()["ended"].get("left", 0) == ended + 1, 2)
    assert face.running == 0


def test_two_at_once_each_with_its_own_k(client: openai.OpenAI, url: str) -> None:
    alone = {k: ask(client, temperature=0, max_tokens=40, extra_body={"num_experts_per_tok": k}) for k in (2, 64)}
    together = threading.Barrier(2)

    def reply(k: int) -> tuple[str, float, float]:
        mine = client_of(url)
        together.wait()
        began = time.monotonic()
        chunks = list(ask(mine, temperature=0, max_tokens=40, stream=True, extra_body={"num_experts_per_tok": k}))
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks), began, time.monotonic()

    with ThreadPoolExecutor(2) as threads:
        (few, began, ended), (all_of_them, began_too, ended_too) = threads.map(reply, (2, 64))
    assert few == alone[2].choices[0].message.content and all_of_them == alone[64].choices[0].message.content
    assert max(began, began_too) < min(ended, ended_too)


def test_a_full_house_says_when_to_come_back(face: Face, url: str, client: openai.OpenAI) -> None:
    """Two compute and two wait (see `url`); the fifth is refused, and once somebody has left the next is answered."""
    held = [began(url) for _ in range(4)]
    until(lambda: face.running == 2)
    refused = None
    deadline = time.monotonic() + 5
    while refused is None and time.monotonic() < deadline:  # the last two may still be on their way
        try:
            ask(client, max_tokens=1, timeout=0.2)
        except openai.RateLimitError as error:
            refused = error
        except openai.APITimeoutError:
            pass
    assert refused is not None and int(refused.response.headers["Retry-After"]) > 0
    for connection in held:
        connection.close()
    until(lambda: face.running == 0)
    assert ask(client, max_tokens=1).usage.completion_tokens == 1


def test_an_error_amid_the_reply_is_told(face: Face, caplog: pytest.LogCaptureFixture) -> None:
    def breaks(name: str, *arguments: Any) -> Iterator[Any]:
        for n, event in enumerate(face.run(name, *arguments)):
            if n == 5:
                raise RuntimeError("a secret of the device")
            yield event

    with served(build_face(face.olmoe.info, breaks, face.olmoe.settings)) as url:
        chunks = []
        with pytest.raises(openai.APIError, match="could not answer"):
            for chunk in ask(client_of(url), stream=True):
                chunks.append(chunk)
        assert len(chunks) >= 3
        with pytest.raises(openai.InternalServerError, match="could not answer") as failed:
            ask(client_of(url))
        assert "secret" not in str(failed.value) and "a secret of the device" in caplog.text


def test_the_time_limit_is_a_length_with_a_note(face: Face) -> None:
    engine, before = face.olmoe.engine, face.olmoe.engine.max_request_s
    engine.max_request_s = 0
    try:
        with served(face.app()) as url:
            reply = ask(client_of(url), max_tokens=50)
    finally:
        engine.max_request_s = before
    assert reply.choices[0].finish_reason == "length" and reply.usage.completion_tokens == 1
    assert reply.model_extra["olmoe"]["finish_reason"] == "time"
    assert "time limit" in reply.model_extra["olmoe"]["notices"][0]


BODIES = [b"", b"null", b"[]", b"{", b"\xff\xfe", b'{"a":' * 3000, b"[" * 100_000, b'{"model": 1' + b"0" * 5000 + b"}",
          b'{"model":"olmoe-tiny","messages":[{"role":"user","content":"\\ud800"}],"max_tokens":1,"stop":"\\udfff"}',
          b'{"model":"\\ud800","messages":[]}', b'{"\\ud800": 1}', b'{"model":"olmoe-tiny","messages":NaN}',
          b'{"model":"olmoe-tiny","messages":[{"role":{},"content":[[]]}]}',
          b'{"temperature":' + b"[" * 900 + b"]" * 900 + b"}"]


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_odd_bodies_are_no_fault_of_the_server(url: str, body: bytes) -> None:
    answer = post(url, body)
    assert answer.status_code < 500 and (answer.status_code == 200 or answer.json()["error"]["message"])


def test_a_huge_body_is_not_read(url: str) -> None:
    assert post(url, b" " * 9_000_000).status_code == 413


values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
                      lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner,
                                                                                  max_size=3), max_leaves=5)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fields=st.dictionaries(st.sampled_from(sorted(KNOWN | set(NOTHING_ASKED))), values, max_size=4),
       message=st.dictionaries(st.sampled_from(["role", "content", "name"]), values, max_size=3))
def test_whatever_the_fields_it_is_an_answer_or_a_sentence(url: str, fields: dict[str, Any],
                                                           message: dict[str, Any]) -> None:
    body = {"model": "olmoe-tiny", "messages": [message, *ASK], "max_tokens": 1} | fields
    if isinstance(body["max_tokens"], int) and body["max_tokens"] > 20:
        body["max_tokens"] = 1
    answer = post(url, body)
    assert answer.status_code < 500
    if answer.status_code != 200:
        assert answer.json()["error"]["message"]
