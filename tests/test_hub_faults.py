"""A hub that is away, hangs or refuses, over a real connection: a sentence within the time that is stated, and what was
downloaded before is used all the same."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from olmoe_space.model import hub, loader
from olmoe_space.model.loader import ModelUnavailable, load
from olmoe_space.settings import HUB_MODEL, Settings

from .fakes import save_random_olmoe

NAME = "some/olmoe"


@contextmanager
def answering(status: int, **headers: str) -> Iterator[int]:
    """A hub that gives every request this status; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@contextmanager
def hanging() -> Iterator[int]:
    """A hub that accepts and never answers; its port."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield server.getsockname()[1]


@contextmanager
def away() -> Iterator[int]:
    """A port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    yield port


@pytest.fixture
def ask_hub_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> object:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(hub, "HUB_TIMEOUT_S", 1.0)
    return lambda port: monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")


@pytest.mark.parametrize(("faulty", "said"), [
    (answering(401, X_Error_Code="RepoNotFound"), "no such model, or only for an account"),
    (answering(403, X_Error_Code="GatedRepo"), "accept them and set HF_TOKEN"),
    (answering(404), "no such model, or only for an account"),
    (answering(503), "answered with the status 503"),
    (away(), "cannot be reached"),
    (hanging(), "did not answer within 1 s"),
], ids=["401", "gated", "404", "503", "away", "hangs"])
def test_the_loading_gives_up_in_time_with_a_sentence(faulty: object, said: str, ask_hub_at: object) -> None:
    with faulty as port:
        ask_hub_at(port)
        began = time.monotonic()
        with pytest.raises(ModelUnavailable, match=said) as refused:
            load(Settings(model=NAME))
        assert time.monotonic() - began < 8
        assert str(refused.value).startswith(f"{NAME} could not be loaded: http://127.0.0.1:{port} ")
        assert "OLMOE_MODEL" in str(refused.value)


def test_a_gpu_whose_hub_hangs_is_served_the_embedded_model(ask_hub_at: object, random_model_folder: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "EMBEDDED_MODEL", random_model_folder)
    monkeypatch.setattr("torch.nn.Module.to", lambda self, *a, **kw: self)
    with hanging() as port:
        ask_hub_at(port)
        info = load(Settings(on_zero_gpu=True)).info
    assert info.name == random_model_folder.name
    assert f"{HUB_MODEL} could not be loaded: http://127.0.0.1:{port} did not answer within 1 s." in info.notice


def test_what_was_downloaded_before_is_used_when_the_hub_hangs(ask_hub_at: object, tmp_path: Path) -> None:
    stored = tmp_path / "cache" / "models--some--olmoe"
    save_random_olmoe(stored / "snapshots" / "abc", "plain")
    (stored / "refs").mkdir()
    (stored / "refs" / "main").write_text("abc")
    with hanging() as port:
        ask_hub_at(port)
        assert load(Settings(model=NAME)).info.name == NAME
