"""Another's server as the engine: `transformers serve` with olmoe-tiny at two k, our own face, and one that fails."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from gradio_client import Client
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from olmoe_space import load
from olmoe_space.ask import request_from_fields
from olmoe_space.events import Event, Finished, Piece, Prefilled, Started, Token
from olmoe_space.lab.jobs import computed
from olmoe_space.library import Olmoe
from olmoe_space.scale.openai_engine import OpenAIEngine
from olmoe_space.scale.openai_face import build_face
from olmoe_space.settings import EMBEDDED_MODEL, ApiKey, Settings
from olmoe_space.trace import record
from olmoe_space.traffic import Traffic
from olmoe_space.ui.page import build_page, launch_options
from olmoe_space.ui.turn import Turn

from .serving import QUIET, free_port, serve, served, until

SKY = "Why is the sky blue?"
GREEDY = {"temperature": 0, "max_new_tokens": 12}  # others count the token that ends a reply as well: none does so soon
COMMIT = "0" * 40


@pytest.fixture(scope="module")
def olmoe() -> Olmoe:
    return load(str(EMBEDDED_MODEL))


def engine_at(*urls: str, **options: Any) -> OpenAIEngine:
    return OpenAIEngine(",".join(f"{url}/v1" for url in urls), **{
        "key": None, "max_request_s": 120, "slots": 2, "start_s": 0} | options)


def ask(engine: OpenAIEngine, message: str = SKY, **fields: Any) -> list[Event]:
    question = request_from_fields(message, info=engine.info, settings=Settings(), **GREEDY | fields)
    return list(engine.run("chat", question.request))


# `transformers serve` ------------------------------------------------------------------------------------------------

def put_in_hub_cache(folder: Path, name: str, k: int) -> None:
    """olmoe-tiny as if it had been downloaded from the hub under this name, with another k in its config."""
    repository = folder / "hub" / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    for file in EMBEDDED_MODEL.iterdir():
        if file.name != "config.json":
            (snapshot / file.name).symlink_to(file)
    config = json.loads((EMBEDDED_MODEL / "config.json").read_text()) | {"num_experts_per_tok": k}
    (snapshot / "config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def transformers_serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One server with two models, test/olmoe-k4 and test/olmoe-k8."""
    home, port = tmp_path_factory.mktemp("hub"), free_port()
    for k in (4, 8):
        put_in_hub_cache(home, f"test/olmoe-k{k}", k)
    command = [str(Path(sys.executable).with_name("transformers")), "serve", "--port", str(port), "--device", "cpu",
               "--dtype", "float32"]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(command, env=os.environ | QUIET | {"HF_HOME": str(home)}, stdout=log, stderr=log,
                                   stdin=subprocess.DEVNULL)
    try:
        def answers() -> bool:
            assert process.poll() is None, (home / "log").read_text()
            try:
                return httpx.get(f"http://localhost:{port}/health", trust_env=False).status_code == 200
            except httpx.TransportError:
                return False

        until(answers, 240)  # it imports torch, as the app does
        yield f"http://localhost:{port}"
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def others(transformers_serve: str) -> OpenAIEngine:
    return engine_at(transformers_serve)


def test_its_ks_are_found_by_name(others: OpenAIEngine) -> None:
    assert others.state()["served"] == {"4": "test/olmoe-k4", "8": "test/olmoe-k8"}
    assert others.info.name == "test/olmoe" and others.info.default_k == 8 and not others.info.tells_routing
    assert "k = 4, 8" in others.info.notice and "does not tell which experts fire" in others.info.notice


@pytest.mark.parametrize(("asked", "k"), [(4, 4), (8, 8), (6, 4), (64, 8)])
def test_greedy_text_is_ours_at_the_same_k_and_the_nearest_is_said(others: OpenAIEngine, olmoe: Olmoe, asked: int,
                                                                    k: int) -> None:
    started, *pieces, finished = ask(others, num_experts_per_tok=asked)
    assert isinstance(started, Started) and isinstance(finished, Finished)
    expected = olmoe.chat(SKY, num_experts_per_tok=k, **GREEDY)
    assert "".join(piece.text for piece in pieces if isinstance(piece, Piece)) == expected["text"]
    assert started.num_experts_per_tok == k
    assert list(started.notices) == ([] if k == asked else [
        f"k = {asked} is not served; the nearest is taken, k = {k} (of 4, 8)."])
    assert (finished.finish_reason, finished.prompt_tokens, finished.new_tokens) == (
        expected["finish_reason"], expected["prompt_tokens"], expected["new_tokens"])
    assert 0 < finished.ttft_s and 0 < finished.decode_s


def test_the_conversation_goes_along(others: OpenAIEngine, olmoe: Olmoe) -> None:
    history = [{"role": "user", "content": "My name is Ada."}, {"role": "assistant", "content": "Hello Ada."}]
    fields = {"history": history, "system_prompt": "Be brief."}
    text = "".join(event.text for event in ask(others, "What is my name?", **fields) if isinstance(event, Piece))
    assert text == olmoe.chat("What is my name?", **fields, **GREEDY)["text"]


@pytest.mark.parametrize("fields", [{"weighting": "renormalised"}, {"mode": "per-token"}])
def test_what_such_a_server_cannot_do_is_refused(others: OpenAIEngine, fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Choose Fixed or Adaptive, and Raw"):
        ask(others, **fields)
    with pytest.raises(ValueError, match="answers chats"):
        others.run("inside")


@contextmanager
def page_over(engine: OpenAIEngine) -> Iterator[str]:
    settings = replace(Settings(), port=free_port())
    page = build_page(engine.info, partial(engine.run, "chat"), settings)
    page.launch(**launch_options(settings), prevent_thread_lock=True, quiet=True)
    try:
        yield f"http://{settings.host}:{settings.port}/"
    finally:
        page.close()


def test_the_endpoint_tells_what_it_can(others: OpenAIEngine, olmoe: Olmoe) -> None:
    with page_over(others) as url:
        answer = Client(url, verbose=False).predict(message=SKY, num_experts_per_tok=5, temperature=0,
                                                    max_new_tokens=12, api_name="/generate")
    expected = olmoe.chat(SKY, num_experts_per_tok=4, **GREEDY)
    for name in ("text", "num_experts_per_tok", "new_tokens", "prompt_tokens", "finish_reason", "weighting"):
        assert answer[name] == expected[name]
    assert answer["expert_counts"] is answer["routing_mass"] is answer["mean_k"] is None
    assert "nearest" in answer["notices"][0] and answer["tokens_per_s"] > 0


@pytest.mark.browser
def test_the_page_says_that_nothing_is_told(others: OpenAIEngine, olmoe: Olmoe, open_page: Any) -> None:
    from playwright.sync_api import expect
    with page_over(others) as url:
        page = open_page(url)
        expect(page.locator("#untold")).to_contain_text("does not tell which experts fired")
        assert page.get_by_role("tab").all_inner_texts() == ["Chat", "How it works"]
        page.get_by_label("Message").fill(SKY)
        page.get_by_label("Message").press("Enter")
        note = page.locator(".reply-note")
        expect(note).to_contain_text("k 8")
        expect(page.locator("#send")).to_be_visible()
        expect(note).to_contain_text("s to first token")
        assert "mass" not in note.inner_text()
        expect(page.locator("#reply-summary")).to_contain_text("10 prompt +")
        assert page.locator("#chat .bot-row").inner_text().strip()
        for gone in ("#live-view", "#downloads", "#figures", ".reply-open button"):
            expect(page.locator(gone)).to_have_count(0)


# Our own face --------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def traffic() -> Traffic:
    return Traffic()


@pytest.fixture(scope="module")
def face_url(olmoe: Olmoe, traffic: Traffic) -> Iterator[str]:
    def run(name: str, *arguments: Any) -> Iterator[Any]:
        return traffic.watched(name, computed(olmoe.engine, name, *arguments))

    with served(build_face(olmoe.info, run, replace(olmoe.settings, api_keys=(ApiKey("swordfish"),)))) as url:
        yield url


@pytest.fixture(scope="module")
def face(face_url: str) -> OpenAIEngine:
    return engine_at(face_url, key="swordfish")


@pytest.mark.parametrize("fields", [
    {"num_experts_per_tok": 3, "temperature": 1, "seed": 5}, {"weighting": "mass_preserving"}, {"mode": "adaptive"},
    {"mode": "per-token", "rule": "top-p", "parameter": 0.3}, {"mode": "per-token", "rule": "layer-budget"}])
def test_the_face_tells_every_event(face: OpenAIEngine, olmoe: Olmoe, fields: dict[str, Any]) -> None:
    theirs, ours = ask(face, **fields), list(olmoe.stream(SKY, **GREEDY | fields))
    assert [type(event) for event in theirs] == [type(event) for event in ours]
    assert replace(theirs[0], seed=0) == replace(ours[0], seed=0)  # greedy ones draw a seed each
    assert theirs[0].seed == fields.get("seed", theirs[0].seed)
    told, expected = record(theirs), record(ours)
    assert told.texts == expected.texts and told.prompt_tokens == expected.prompt_tokens
    for name in ("token_ids", "router_logits", "active_experts"):
        np.testing.assert_array_equal(getattr(told, name), getattr(expected, name))
    np.testing.assert_array_equal(told.expert_counts(), expected.expert_counts())
    np.testing.assert_allclose(told.expert_weights(), expected.expert_weights(), atol=1e-4)
    np.testing.assert_allclose(told.routing_mass(), expected.routing_mass(), atol=1e-6)
    assert (theirs[-1].finish_reason, theirs[-1].new_tokens) == (ours[-1].finish_reason, ours[-1].new_tokens)


def test_the_faces_model_is_known(face: OpenAIEngine, olmoe: Olmoe) -> None:
    assert replace(face.info, notice="") == olmoe.info and face.state()["served"] == {"any k": "olmoe-tiny"}
    assert "are left out" in face.info.notice


def test_who_stops_reading_ends_the_computation_there(face: OpenAIEngine, traffic: Traffic) -> None:
    question = request_from_fields(SKY, info=face.info, settings=Settings(), temperature=9, top_p=1,
                                   max_new_tokens=600, num_experts_per_tok=64)
    events = face.run("chat", question.request)
    assert [type(next(events)) for _ in range(4)] == [Started, Prefilled, Token, Token]
    assert traffic.counts()["running"] == 1
    events.close()
    until(lambda: traffic.counts()["running"] == 0, 2)
    assert traffic.counts()["ended"]["left"] >= 1


def test_a_long_reply_is_ended_at_the_time_limit(face_url: str) -> None:
    impatient = engine_at(face_url, key="swordfish", max_request_s=3)
    finished = ask(impatient, temperature=9, top_p=1, max_new_tokens=600, num_experts_per_tok=64)[-1]
    assert finished.finish_reason == "time" and 1 < finished.new_tokens < 600


def test_a_wrong_key_and_nobody_there_stop_the_start(face_url: str) -> None:
    with pytest.raises(ValueError, match="refuses the key .401.. Set OLMOE_ENGINE_KEY"):
        engine_at(face_url, key="halibut")
    with pytest.raises(ValueError, match="cannot be reached"):
        engine_at(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(ValueError, match="is no address"):
        engine_at("http://here:port")


def test_the_app_takes_it_for_its_engine(face_url: str, olmoe: Olmoe, tmp_path: Path) -> None:
    with serve(tmp_path / "log", {"OLMOE_ENGINE": f"{face_url}/v1", "OLMOE_ENGINE_KEY": "swordfish"}) as server:
        state = httpx.get(f"{server.url}healthz", trust_env=False).json()
        assert state["engine"] == f"{face_url}/v1" and state["model"] == "olmoe-tiny"
        answer = Client(server.url, verbose=False).predict(message=SKY, num_experts_per_tok=5, temperature=0, seed=1,
                                                           max_new_tokens=12, api_name="/generate")
        assert "swordfish" not in server.log
    expected = olmoe.chat(SKY, num_experts_per_tok=5, seed=1, **GREEDY)
    for name in expected.keys() - {"ttft_s", "tokens_per_s", "routing_mass", "routing_entropy"}:
        assert answer[name] == expected[name], name
    assert answer["routing_mass"] == pytest.approx(expected["routing_mass"], abs=1e-6)


# A server that fails -------------------------------------------------------------------------------------------------

SPOKEN = 'data: {"choices": [{"delta": {"content": "It began "}}]}\n\n'


def failing() -> FastAPI:
    """Answers by the last word of the message; "healed": as it should."""
    app = FastAPI()

    @app.get("/v1/models")
    async def models() -> Response:
        return JSONResponse({"data": [{"id": "olmoe-k4"}, {"id": "olmoe_K16", "max_model_len": 100}, {"id": "gpt"}]})

    @app.post("/v1/chat/completions")
    async def completions(request: Request) -> Response:
        word = (await request.json())["messages"][-1]["content"].split()[-1]
        if word.isdecimal():
            error = {"error": {"message": "the server's own words"}}
            return JSONResponse(error, int(word), {"Retry-After": "7"} if word == "429" else {})

        async def stream() -> AsyncIterator[str]:
            yield ": a sign of life\n\n"
            if word == "silent":
                await asyncio.sleep(4)
            yield SPOKEN
            if word == "hangs":
                await asyncio.sleep(4)
            if word == "garbage":
                yield "data: {\n\n"
            if word == "error":
                yield 'data: {"error": "out of memory"}\n\n'
            if word == "dies":
                raise ConnectionResetError("the connection is cut")
            if word == "healed":
                yield 'data: {"choices": [{"delta": {"content": "well."}, "finish_reason": "stop"}]}\n\n'
                yield "data: [DONE]\n\n"

        return StreamingResponse(stream(), media_type="text/event-stream")

    return app


@pytest.fixture(scope="module")
def broken() -> Iterator[OpenAIEngine]:
    with served(failing()) as url:
        yield engine_at(url, silence_s=1.5)


@pytest.mark.parametrize(("word", "said", "keeps"), [
    ("401", "refuses the key (401)", ""), ("429", "busy (429). Try again in 7 s", ""), ("500", "failed (500)", ""),
    ("400", "refuses this (400): the server's own words", ""), ("silent", "silent for 1.5 s", ""),
    ("hangs", "silent for 1.5 s", "It began "), ("garbage", "cannot be read", "It began "),
    ("error", "says: out of memory", "It began "), ("dies", "broke off", "It began "),
    ("ends", "broke off in the middle", "It began "),
])
def test_every_fault_is_a_sentence_and_the_conversation_is_kept(broken: OpenAIEngine, word: str, said: str,
                                                                keeps: str) -> None:
    def turn_with(message: str) -> Turn:
        question = request_from_fields(message, info=broken.info, settings=Settings())
        chat = [{"role": "user", "content": [{"type": "text", "text": message}]}]
        turn = Turn(question, chat, [], message, broken.info, None, 10)
        list(turn.run(partial(broken.run, "chat")))
        return turn

    turn = turn_with(f"Please be {word}")
    assert said in (turn.failure or turn.refusal) and bool(turn.failure) == bool(keeps)
    assert turn.text == keeps and turn.chat == turn.shown()[:1]
    if keeps:
        assert said in turn.note() and "Retry asks again" in turn.note()
    healed = turn_with("Please be healed")
    assert healed.text == "It began well." and not healed.failure


def test_a_face_over_such_a_server(broken: OpenAIEngine) -> None:
    body = {"model": "olmoe", "messages": [{"role": "user", "content": "Please be healed"}], "num_experts_per_tok": 15}
    with served(build_face(broken.info, broken.run, Settings())) as url:
        reply = httpx.post(f"{url}/v1/chat/completions", json=body, trust_env=False).json()
        refused = httpx.post(f"{url}/v1/chat/completions", json=body | {"routed_experts": True}, trust_env=False)
    assert reply["choices"][0]["message"]["content"] == "It began well."
    assert reply["usage"] is None  # this server tells none
    assert reply["olmoe"]["num_experts_per_tok"] == 16 and "nearest" in reply["olmoe"]["notices"][0]
    assert refused.status_code == 400 and "does not tell which experts fired" in refused.json()["error"]["message"]


def test_names_say_which_k_and_others_are_passed_over(broken: OpenAIEngine) -> None:
    assert broken.state()["served"] == {"4": "olmoe-k4", "16": "olmoe_K16"}
    assert broken.info.default_k == 4 and broken.info.context_length == 100


@pytest.mark.parametrize(("names", "result"), [
    (["mine"], {"8": "mine"}), (["a", "b"], "a, b: no model is named for its k"), ([], "nothing"),
    (["olmoe-k0", "olmoe-k65", "k8"], "no model is named for its k"), (None, "does not answer as an OpenAI")])
def test_models_without_a_k(names: list[str] | None, result: Any) -> None:
    app = FastAPI()

    @app.get("/v1/models")
    async def models() -> Response:
        return JSONResponse("hello" if names is None else {"data": [{"id": name} for name in names]})

    with served(app) as url:
        if isinstance(result, str):
            with pytest.raises(ValueError, match=result):
                engine_at(url)
        else:
            engine = engine_at(url)
            assert engine.state()["served"] == result and "does not say its k" in engine.info.notice


def test_several_servers_each_with_its_k(olmoe: Olmoe) -> None:
    with served(failing()) as one, served(failing()) as two:
        engine = engine_at(one, two)
        assert engine.address == f"{one}/v1, {two}/v1" and set(engine.state()["served"]) == {"4", "16"}
