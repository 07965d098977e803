"""What breaks in the middle: it is told in a sentence, gives back what it held, and the next request is answered."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from olmoe_space.engine.engine import Engine
from olmoe_space.lab.jobs import computed
from olmoe_space.request import GenerationRequest, Message, RoutingPolicy, SamplingParams

from .fakes import byte_tokenizer, random_olmoe
from .serving import serve

REQUEST = GenerationRequest((Message("user", "One two three"),), SamplingParams(0, 1, 12, 0), RoutingPolicy(4))


class FailsOnce:
    """Stands before a method of the kernels and raises at its nth call."""

    def __init__(self, real: Any, error: Exception, at: int) -> None:
        self.real, self.error, self.calls, self.at = real, error, 0, at

    def __call__(self, *arguments: Any) -> Any:
        self.calls += 1
        if self.calls == self.at:
            raise self.error
        return self.real(*arguments)


@pytest.mark.parametrize(("where", "at"), [("prefill", 1), ("step", 1), ("step", 5)])
@pytest.mark.parametrize(("error", "said"), [(torch.OutOfMemoryError("Tried to allocate 2 GiB"),
                                              "at most 6 new tokens instead of 12, or a shorter text"),
                                             (RuntimeError("the kernel failed"), "the kernel failed")])
@pytest.mark.parametrize("backend", ["torch", None])
def test_the_model_raises_and_the_next_request_is_answered(where: str, at: int, error: Exception, said: str,
                                                           backend: str | None,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(random_olmoe(), byte_tokenizer(), backend=backend)
    expected = [str(event) for event in computed(engine, "chat", REQUEST)][1:-1]
    monkeypatch.setattr(engine.kernels, where, FailsOnce(getattr(engine.kernels, where), error, at))
    with pytest.raises((ValueError, RuntimeError), match=said):
        list(computed(engine, "chat", REQUEST))
    answered: list[Any] = []
    again = threading.Thread(target=lambda: answered.extend(computed(engine, "chat", REQUEST)), daemon=True)
    again.start()
    again.join(60)  # a turn that was not given back would be waited for without end
    assert [str(event) for event in answered][1:-1] == expected


def test_without_memory_for_several_replies_fewer_are_advised(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(random_olmoe(), byte_tokenizer())
    monkeypatch.setattr(engine.kernels, "prefill", FailsOnce(None, torch.OutOfMemoryError("2 GiB"), 1))
    with pytest.raises(ValueError, match="instead of 12, or 2 of the 4 settings at once, or a shorter text"):
        list(computed(engine, "compare", [REQUEST] * 4))


def test_sigterm_during_a_reply_ends_the_server(tmp_path: Path) -> None:
    with serve(tmp_path / "log") as server, httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client:
        fields = ["Tell me a long story.", None, "fixed", 64, 4, 16, "raw", "", 0.9, 1, 900, 1, "top-p", None]
        event_id = client.post("gradio_api/call/generate", json={"data": fields}).json()["event_id"]
        with client.stream("GET", f"gradio_api/call/generate/{event_id}") as answer:
            lines = answer.iter_lines()
            assert next(lines) == "event: generating" and json.loads(next(lines).removeprefix("data: "))
            server.process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            server.process.wait(timeout=60)
            print(f"ended after {time.monotonic() - began:.1f} s")
    assert "Traceback" not in server.log, server.log
