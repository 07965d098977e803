"""The package as a library: what a notebook would do with it."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from olmoe_space import load
from olmoe_space.events import Finished, Started
from olmoe_space.library import Olmoe
from olmoe_space.settings import EMBEDDED_MODEL

GREEDY = {"temperature": 0, "max_new_tokens": 12}


@pytest.fixture(scope="module")
def olmoe() -> Olmoe:
    return load(str(EMBEDDED_MODEL))


def test_a_chat_with_its_own_k(olmoe: Olmoe) -> None:
    reply = olmoe.chat("Why is the sky blue?", num_experts_per_tok=16, **GREEDY)
    assert reply["num_experts_per_tok"] == 16 and reply["text"]
    assert {sum(layer) for layer in reply["expert_counts"]} == {16 * reply["new_tokens"]}
    assert olmoe.info.backend == olmoe.engine.kernels.name


def test_a_history_is_remembered(olmoe: Olmoe) -> None:
    history = [{"role": "user", "content": "My name is Ada."},
               {"role": "assistant", "content": "Nice to meet you, Ada!"}]
    assert "Ada" in olmoe.chat("What is my name?", history, **GREEDY)["text"]


def test_many_threads_each_with_its_own_k(olmoe: Olmoe) -> None:
    alone = {k: olmoe.chat("What is a volcano?", num_experts_per_tok=k, **GREEDY)["text"] for k in (1, 8, 64)}
    with ThreadPoolExecutor(3) as threads:
        found = threads.map(lambda k: (k, olmoe.chat("What is a volcano?", num_experts_per_tok=k, **GREEDY)["text"]),
                            alone)
    assert dict(found) == alone


def test_a_stream_and_a_trace_are_the_same_reply(olmoe: Olmoe) -> None:
    events = list(olmoe.stream("Hello!", seed=3, max_new_tokens=6))
    assert isinstance(events[0], Started) and isinstance(events[-1], Finished)
    trace = olmoe.trace("Hello!", seed=3, max_new_tokens=6)
    assert trace.text("decode") == olmoe.chat("Hello!", seed=3, max_new_tokens=6)["text"]
    assert trace.router_logits.shape[1:] == (16, 64)


def test_what_cannot_be_is_said(olmoe: Olmoe) -> None:
    with pytest.raises(ValueError, match="from 1 to 64"):
        olmoe.chat("Hello", num_experts_per_tok=65)
    with pytest.raises(TypeError, match="experts"):
        olmoe.chat("Hello", experts=3)
    assert 4 <= olmoe.choose_experts("Prove that the integers form a ring.").k <= 16


def test_importing_the_package_is_quick() -> None:
    told = subprocess.run([sys.executable, "-c", "import olmoe_space, sys; print('torch' in sys.modules)"],
                          capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"
