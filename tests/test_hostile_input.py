"""Whatever is sent over HTTP to the served app: no status of 500 and more, an answer or a sentence, nothing of the
program's inside, nothing that runs; and the next right request gets the right answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from . import hostile
from .serving import REPOSITORY, Server, serve

SECONDS = 120  # for one answer, on a busy machine
INSIDE = re.compile(rf"Traceback|\.py\b|/home|site-packages|object at 0x|pydantic|{re.escape(str(REPOSITORY))}")
PARAMETERS: dict[str, dict[str, Any]] = {
    "generate": {"message": "Hi", "history": None, "mode": "fixed", "num_experts_per_tok": 8, "k_min": 4, "k_max": 16,
                 "weighting": "raw", "system_prompt": "", "temperature": 0, "top_p": 1, "max_new_tokens": 2, "seed": 0,
                 "rule": "top-p", "parameter": None},
    "choose_experts": {"message": "Hi", "k_min": 4, "k_max": 16},
    "compare": {"message": "Hi", "num_experts_per_tok": [1, 2], "weighting": "raw", "system_prompt": "",
                "temperature": 0, "top_p": 1, "max_new_tokens": 2, "seed": 0},
}
STRANGE = {"message": hostile.texts, "system_prompt": hostile.texts, "history": hostile.histories,
           "mode": st.sampled_from(["adaptive", "per-token"]),
           "rule": st.sampled_from(["relative-skip", "entropy", "layer-budget", "random"]),
           "num_experts_per_tok": st.lists(hostile.numbers, max_size=10), "parameter": hostile.numbers}
bounded = settings(max_examples=40, deadline=None, derandomize=True,
                   suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


class Caller:
    """The app over HTTP, as anyone may speak to it. Every connection is new: none is broken by what came before."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=SECONDS, trust_env=False,
                                 limits=httpx.Limits(max_keepalive_connections=0))

    def post(self, path: str, body: Any) -> httpx.Response:
        """body: JSON as Python writes it, with NaN and with \\ud800 for lone surrogates; bytes as they are."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.checked(self.http.post(f"gradio_api/{path}", content=content,
                                           headers={"Content-Type": "application/json"}))

    def checked(self, answer: httpx.Response) -> httpx.Response:
        assert answer.status_code < 500, (answer.status_code, answer.text)
        assert not INSIDE.search(answer.text), answer.text
        return answer

    def call(self, name: str, data: list[Any]) -> Any:
        """The last object of an endpoint's answer, or the sentence why there is none."""
        asked = self.post(f"call/{name}", {"data": data})
        if asked.status_code != 200:
            return str(asked.json()["detail"])
        answer = self.checked(self.http.get(f"gradio_api/call/{name}/{asked.json()['event_id']}"))
        *_, event, data_line = [line for line in answer.text.splitlines() if line and "heartbeat" not in line]
        told = json.loads(data_line.removeprefix("data: "))
        if event == "event: complete":
            return told[0]
        return self.sentence(told["error"])

    def sentence(self, error: Any) -> str:
        assert isinstance(error, str) and len(error) > 10 and error.rstrip()[-1] in ".]", error
        return error

    def press(self, function: dict[str, Any], data: list[Any], event_data: Any, session: str) -> None:
        """One of the page's own functions, as the page's script calls it."""
        body = {"data": data, "fn_index": function["id"], "session_hash": session, "event_data": event_data}
        if not function["queue"]:
            answer = self.post("run/predict", body)
            assert answer.status_code == 200 or self.sentence(answer.json()["error"])
            return
        if self.post("queue/join", body).status_code == 200:
            heard = self.checked(self.http.get("gradio_api/queue/data", params={"session_hash": session})).text
            messages = [json.loads(line[5:]) for line in heard.splitlines() if line.startswith("data:")]
            [end] = [message for message in messages if message["msg"] == "process_completed"]
            assert end["success"] or self.sentence(end["output"]["error"])

    def right(self) -> tuple[str, int]:
        """What a right request gets: it never changes."""
        reply = self.call("generate", list((PARAMETERS["generate"] | {"message": "The sky is", "max_new_tokens": 8,
                                                                      "num_experts_per_tok": 16}).values()))
        return reply["text"], reply["num_experts_per_tok"]


AnyCaller = TypeVar("AnyCaller", bound=Caller)


@pytest.fixture(scope="module")
def endpoint(server: Server) -> Iterator[Caller]:
    yield from calling(Caller(server.url))


@pytest.fixture(scope="module")
def page_functions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    """A server of its own: a function of the page that is called with what no page sends may log a traceback."""
    with serve(tmp_path_factory.mktemp("hostile") / "log.txt") as running:
        yield from calling(Caller(running.url))


def calling(caller: AnyCaller) -> Iterator[AnyCaller]:
    """What a right request gets is the same before and after, nothing runs any more, and nothing was run."""
    before = caller.right()
    assert before[1] == 16 and before[0]
    yield caller
    assert caller.right() == before
    assert caller.http.get("healthz").json()["running"] == 0
    assert not list(REPOSITORY.rglob(hostile.CANARY))


@st.composite
def fields_of(draw: st.DrawFn, name: str) -> dict[str, Any]:
    """Right arguments but for one to three of them."""
    fields = dict(PARAMETERS[name])
    for parameter in draw(st.lists(st.sampled_from(list(fields)), min_size=1, max_size=3, unique=True)):
        values = STRANGE.get(parameter, hostile.numbers)
        fields[parameter] = draw(st.one_of(values, hostile.junk))
    if isinstance(fields.get("max_new_tokens"), (int, float)) and 3 < fields["max_new_tokens"] <= 1024:
        fields["max_new_tokens"] = 3  # what is right may be asked for, but not to take minutes
    return fields


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_endpoint_answers_or_refuses_whatever_it_is_given(name: str, endpoint: Caller) -> None:
    @bounded
    @given(fields_of(name))
    def answered(fields: dict[str, Any]) -> None:
        reply = endpoint.call(name, list(fields.values()))
        assert isinstance(reply, (dict, str))

    answered()


@pytest.mark.parametrize("name", PARAMETERS)
def test_fixed_hostile_texts(name: str, endpoint: Caller) -> None:
    for text in hostile.TEXTS:
        assert isinstance(endpoint.call(name, list((PARAMETERS[name] | {"message": text}).values())), (dict, str))


@settings(bounded, max_examples=20)
@given(data=st.one_of(hostile.junk, st.lists(hostile.junk, max_size=20)), name=st.sampled_from(list(PARAMETERS)))
def test_bodies_of_any_shape(endpoint: Caller, data: Any, name: str) -> None:
    for body in (data, {"data": data}, {"data": data, "session_hash": data}, {"data": data, "fn_index": data}):
        answer = endpoint.post(f"call/{name}", body)
        if answer.status_code == 200:
            endpoint.checked(endpoint.http.get(f"gradio_api/call/{name}/{answer.json()['event_id']}"))


@pytest.mark.parametrize("body", [
    b"", b"{", b"[" * 100_000, b'{"data":[' + b"[" * 900 + b"]" * 900 + b"]}", b"\xff\xfe",
    b'{"data":[' + b"9" * 5000 + b"]}", b'{"data":["\\ud800"]}', b'{"data":[1e999,NaN]}'],
    ids=lambda body: repr(body[:14]))
def test_bodies_that_are_hardly_json(endpoint: Caller, body: bytes) -> None:
    for path in ("call/choose_experts", "call/v2/generate", "call/nothing", "queue/join", "run/predict", "cancel",
                 "reset", "component_server"):
        endpoint.post(path, body)


def test_what_is_not_there_is_said_to_be_not_there(endpoint: Caller) -> None:
    assert endpoint.post("call/nothing", {"data": []}).status_code == 404
    assert endpoint.post("call/v2/nothing", {}).status_code == 404
    assert endpoint.post("call/v2/generate", {"boo": 1}).status_code == 404
    for number in (9999, -1):
        assert endpoint.post("queue/join", {"data": [], "fn_index": number, "session_hash": "x"}).status_code == 404
    unknown = {"data": [], "component_id": 9999, "session_hash": "x", "fn_name": "__init__"}
    assert endpoint.post("component_server", unknown).status_code == 404
    assert endpoint.post("component_server", unknown | {"component_id": 1}).status_code == 404


@pytest.mark.parametrize("path", [
    "/etc/passwd", "../../../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "file:///etc/passwd", "%00",
    "%ff", "/proc/self/environ", "~/.ssh/id_rsa", "http://127.0.0.1:9/", "data:text/html,x", "a" * 5000, "app.py",
    str(REPOSITORY / "app.py"), str(REPOSITORY / "assets" / "olmoe-tiny" / "config.json")])
def test_no_file_of_this_machine_is_served(endpoint: Caller, path: str) -> None:
    for way in ("gradio_api/file=", "gradio_api/file/", "gradio_api/proxy=", "static/", "assets/", "svelte/", "theme/",
                "gradio_api/custom_component/1/client/component/", "?deep_link=", "gradio_api/info?page="):
        answer = endpoint.http.get(f"{way}{path}")
        assert answer.status_code < 500, (way, answer.text)
        assert "root:" not in answer.text and "PATH=" not in answer.text and "import spaces" not in answer.text


def test_an_uploaded_name_stays_a_name_and_its_size_is_bounded(endpoint: Caller) -> None:
    for name in ("../../evil.py", "/etc/evil", "a/../../b", "..", "x" * 5000, "\u202e.exe", "a\x00b"):
        answer = endpoint.http.post("gradio_api/upload", files={"files": (name, b"{}")})
        assert answer.status_code < 500, (name, answer.text)
        if answer.status_code == 200:
            [path] = answer.json()
            assert ".." not in Path(path).parts and len(Path(path).parent.name) == 64  # a folder of its own: a hash
    assert endpoint.http.post("gradio_api/upload", files={"files": ("large", b" " * 2_000_000)}).status_code == 413


def test_the_pages_own_functions_answer_or_refuse_whatever_they_are_given(page_functions: Caller) -> None:
    """Gradio lets anyone call them by their number."""
    config = page_functions.http.get("config").json()
    functions = [one for one in config["dependencies"] if one["backend_fn"] and one["api_visibility"] == "private"]
    assert len(functions) > 80

    @settings(bounded, max_examples=80)
    @given(st.sampled_from(functions), st.data())
    def answered(function: dict[str, Any], data: st.DataObject) -> None:
        number = len(function["inputs"])
        kinds = st.one_of(hostile.junk, hostile.histories, hostile.files, st.just("8"))
        values = data.draw(st.lists(kinds, min_size=number, max_size=number))
        page_functions.press(function, values, data.draw(st.one_of(st.none(), hostile.junk)), session="stranger")

    answered()
    for function in functions:  # with too few values, and with none that mean anything
        page_functions.press(function, [], None, "stranger")
        page_functions.press(function, [None] * len(function["inputs"]), None, "stranger")
