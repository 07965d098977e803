"""Whatever a client of the Model Context Protocol sends: an answer or a sentence, nothing of the program's inside, no
status of 500 and more, nothing of what was written in the log; and the next right call gets the right answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from . import hostile
from .serving import Server, serve
from .test_hostile_input import INSIDE, PARAMETERS, Caller, bounded, calling, fields_of

SECRET = "quixotic-zebra"


class Tools(Caller):
    """The same as tools, without a client's own checks."""

    def __init__(self, server: Server) -> None:
        super().__init__(server.url)
        self.server = server
        self.http.headers["Accept"] = "application/json, text/event-stream"

    def told(self, body: Any) -> Any:
        """The message that comes back; None for what is not answered."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = self.http.post("gradio_api/mcp/", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code < 500, (answer.status_code, answer.text)
        lines = [line for line in re.split("\r?\n", answer.text) if line.startswith(("data: ", "{"))]
        return json.loads(lines[-1].removeprefix("data: ")) if lines else None

    def call(self, name: Any, data: Any) -> Any:
        """What the tool found, or the sentence why nothing."""
        message = self.told({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
                             "params": {"name": name, "arguments": data}})
        if "error" in message:
            return said(message["error"]["message"])
        [content] = message["result"]["content"]
        return said(content["text"]) if message["result"]["isError"] else json.loads(content["text"])

    def right(self) -> tuple[str, int]:
        reply = self.call("generate", PARAMETERS["generate"] | {"message": "The sky is", "max_new_tokens": 8,
                                                                "num_experts_per_tok": 16})
        return reply["text"], reply["num_experts_per_tok"]


def said(sentence: str) -> str:
    assert len(sentence) > 10 and not INSIDE.search(sentence), sentence
    return sentence


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tools]:
    """A server of its own: what the package cannot decode may log a traceback."""
    with serve(tmp_path_factory.mktemp("tools") / "log.txt") as server:
        yield from calling(Tools(server))


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_tool_answers_or_refuses_whatever_it_is_given(name: str, tools: Tools) -> None:
    @bounded
    @given(fields_of(name), st.dictionaries(hostile.names, hostile.junk, max_size=2))
    def answered(fields: dict[str, Any], more: dict[str, Any]) -> None:
        assert isinstance(tools.call(name, fields), (dict, str))
        assert isinstance(tools.call(name, fields | more), (dict, str))

    answered()


@pytest.mark.parametrize("name", PARAMETERS)
def test_fixed_hostile_texts(name: str, tools: Tools) -> None:
    for text in hostile.TEXTS:
        assert isinstance(tools.call(name, PARAMETERS[name] | {"message": text}), (dict, str))


@settings(bounded, max_examples=40)
@given(name=st.one_of(st.sampled_from(list(PARAMETERS)), hostile.junk), arguments=hostile.junk, body=hostile.junk)
def test_bodies_of_any_shape(tools: Tools, name: Any, arguments: Any, body: Any) -> None:
    tools.call(name, arguments)
    tools.told(body)
    for method in ("tools/list", "resources/read", "prompts/get", "completion/complete", body):
        tools.told({"jsonrpc": "2.0", "id": 1, "method": method, "params": body})


@pytest.mark.parametrize("body", [
    b"", b"{", b"[" * 100_000, b"\xff\xfe", b'{"jsonrpc":"2.0","id":' + b"9" * 5000 + b"}"],
    ids=lambda body: repr(body[:14]))
def test_bodies_that_are_hardly_json(tools: Tools, body: bytes) -> None:
    tools.told(body)


def test_no_file_is_read_and_no_other_method_harms(tools: Tools) -> None:
    for uri in ("file:///etc/passwd", "/etc/passwd", "http://127.0.0.1:9/"):
        answer = tools.told({"jsonrpc": "2.0", "id": 1, "method": "resources/read", "params": {"uri": uri}})
        assert "error" in answer and "root:" not in str(answer)
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"):
        assert tools.http.request(method, "gradio_api/mcp/").status_code < 500
    for path in ("x", "../../etc/passwd", "schema/x", "messages/", "messages/?session_id=x"):
        assert tools.http.post(f"gradio_api/mcp/{path}", content=b"{}").status_code < 500


def test_a_lone_surrogate_is_answered(tools: Tools) -> None:
    assert tools.call("choose_experts", {"message": "prove \ud800"})["k"] >= 4


def test_what_was_written_is_not_logged(tools: Tools) -> None:
    tools.call("choose_experts", {"message": SECRET})
    tools.call("choose_experts", {"message": SECRET, SECRET: SECRET})
    tools.call("choose_experts", {"message": [SECRET]})
    tools.told({"jsonrpc": "2.0", "id": 1, "method": SECRET, "params": {"name": SECRET}})
    tools.told({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": [SECRET]}})
    assert "Failed to validate request" in tools.server.log and SECRET not in tools.server.log
