"""Starts the app as a user does, `python app.py`, and watches it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

T = TypeVar("T")
REPOSITORY = Path(__file__).resolve().parent.parent
START_LIMIT_S = 180.0  # a cold disk and a busy machine; the log is shown when it passes
QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
         "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True)
class Server:
    """A running app. `start_s`: seconds from `python app.py` to the first page."""

    url: str
    process: subprocess.Popen[bytes]
    log_file: Path
    start_s: float

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def resident_bytes(self) -> int:
        """Memory of the server process itself, as Linux counts it."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS:"))


def in_a_thread(work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns. In the tests' own thread a browser may have left its event loop running."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def served(app: Any) -> Iterator[str]:
    """An ASGI app in a thread of this process, on a free port, until the block ends; its address."""
    port = free_port()
    import uvicorn  # comes with gradio, which a machine that only has a GPU may lack

    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        until(lambda: server.started)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=20)


def until(condition: Callable[[], Any], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


@contextmanager
def serve(log_file: Path, env: Mapping[str, str] | None = None, script: str = "app.py") -> Iterator[Server]:
    """The app on a free port until the block ends; AssertionError with its log if it does not come up."""
    port = free_port()
    unset = {name: value for name, value in os.environ.items() if not name.startswith(("OLMOE_", "GRADIO_", "SPACE"))}
    full_env = unset | QUIET | {"PORT": str(port)} | dict(env or {})
    with log_file.open("wb") as log:
        started = time.monotonic()
        process = subprocess.Popen([sys.executable, script], cwd=REPOSITORY, env=full_env, stdout=log,
                                   stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}/"
        _wait_for_page(url, process, log_file, started + START_LIMIT_S)
        yield Server(url, process, log_file, time.monotonic() - started)
    finally:
        _stop(process)


def _wait_for_page(url: str, process: subprocess.Popen[bytes], log_file: Path, deadline: float) -> None:
    while True:
        assert process.poll() is None, f"the app ended with {process.returncode}:\n{log_file.read_text()}"
        assert time.monotonic() < deadline, f"no page after {START_LIMIT_S:.0f} s:\n{log_file.read_text()}"
        try:
            if httpx.get(url, timeout=5, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ctrl-C, as a user does; stronger words if it does not listen."""
    for word in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            process.send_signal(word)
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                continue
