"""The endpoints as tools of the Model Context Protocol: a real client over HTTP against the served app."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

from .serving import Server, in_a_thread, serve


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(tmp_path_factory.mktemp("mcp") / "log") as server:
        yield server


def with_session(server: Server, use: Callable[[ClientSession], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with streamable_http_client(f"{server.url}gradio_api/mcp/") as (read, write, _), \
                ClientSession(read, write) as session:
            await session.initialize()
            return await use(session)

    return in_a_thread(run())


def called(server: Server, tool: str, **arguments: Any) -> Any:
    result = with_session(server, lambda session: session.call_tool(tool, arguments))
    text = result.content[0].text
    assert not result.isError, text
    return json.loads(text)


def tool_of(server: Server, ending: str) -> Any:
    [tool] = [t for t in with_session(server, lambda session: session.list_tools()).tools if t.name.endswith(ending)]
    return tool


def test_each_endpoint_is_a_tool_that_says_what_it_does(server: Server) -> None:
    tools = with_session(server, lambda session: session.list_tools()).tools
    assert {t.name for t in tools} == {"generate", "choose_experts", "compare"}
    assert all(len(t.description) > 60 for t in tools)
    fields = tool_of(server, "generate").inputSchema["properties"]
    assert fields["num_experts_per_tok"]["type"] in ("integer", "number") and "message" in fields


def test_k_takes_effect_through_generate(server: Server) -> None:
    one, many = (called(server, "generate", message="Tell me a story.", num_experts_per_tok=k, temperature=0,
                        max_new_tokens=12) for k in (1, 64))
    assert (one["num_experts_per_tok"], many["num_experts_per_tok"]) == (1, 64)
    assert sum(many["expert_counts"][0]) == 64 * many["new_tokens"] and one["text"] != many["text"]


def test_an_adaptive_k_and_its_reasons(server: Server) -> None:
    chosen = called(server, "choose_experts", message="Prove that the integers form a ring.")
    assert 4 <= chosen["k"] <= 16 and chosen["contributions"]


def test_compare_runs_every_k_with_one_seed(server: Server) -> None:
    found = called(server, "compare", message="Tell me a story.", num_experts_per_tok=[1, 8, 64], max_new_tokens=12)
    assert [reply["num_experts_per_tok"] for reply in found["replies"]] == [1, 8, 64]
    assert {reply["seed"] for reply in found["replies"]} == {found["seed"]}
    assert found["common_tokens"] is None or 0 <= found["common_tokens"] < 12
    alone = called(server, "generate", message="Tell me a story.", num_experts_per_tok=8, temperature=0, top_p=1,
                   max_new_tokens=12)
    assert found["replies"][1]["text"] == alone["text"]


@pytest.mark.parametrize(("tool", "arguments", "said"), [
    ("generate", {"message": "Hi", "num_experts_per_tok": 65}, "64"),
    ("generate", {"message": " "}, "message"),
    ("compare", {"message": "Hi", "num_experts_per_tok": [8]}, "2 to 8"),
    ("compare", {"message": "Hi", "num_experts_per_tok": [8, 99]}, "64"),
    ("choose_experts", {"message": "Hi", "k_min": 9, "k_max": 3}, "k")])
def test_what_cannot_be_run_is_refused_in_a_sentence(server: Server, tool: str, arguments: dict[str, Any],
                                                     said: str) -> None:
    result = with_session(server, lambda session: session.call_tool(tool, arguments))
    text = result.content[0].text
    assert result.isError and said in text and "Traceback" not in text and ".py" not in text
