"""A ZeroGPU host without a GPU, as a pytest plugin: `pytest -p tests.zero_gpu.device`.

It must be imported before torch, gradio and spaces. `spaces` then takes its ZeroGPU path: CUDA is
emulated in this process, every decorated call forks a worker or reuses one, arguments and yields are
pickled. Its own too are the queues, the cancelling and the errors. Ours are only the two ends that need
hardware: the device service, which hands out GPUs over HTTP, and the moment when a worker moves the
model's tensors to its GPU, where they become ordinary CPU tensors instead.
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit


@dataclass
class DeviceService:
    """What the service was asked for, and how it answers.

    asked: (path, query) of every request. quota_left_s: seconds that the visitor has left.
    """

    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    quota_left_s: float = float("inf")

    def reset(self) -> None:
        self.asked.clear()
        self.quota_left_s = float("inf")

    def queries(self, path: str) -> list[dict[str, str]]:
        return [query for asked, query in self.asked if asked == path]

    def answer(self, path: str, query: dict[str, str]) -> tuple[int, dict[str, object]]:
        """(HTTP status, body)"""
        self.asked.append((path, query))
        if path != "/schedule":
            return 200, {}
        if float(query.get("durationSeconds", 60)) > self.quota_left_s:
            return 429, {"left": int(self.quota_left_s), "wait": 3600}
        # One GPU that is always idle: `spaces` keeps its worker for the next call.
        return 200, {"idle": True, "nvidiaIndex": 0, "nvidiaUUID": "GPU-0", "allowToken": f"call-{len(self.asked)}"}


SERVICE = DeviceService()


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        url = urlsplit(self.path)
        status, body = SERVICE.answer(url.path, dict(parse_qsl(url.query)))
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """Quiet."""


def _start() -> str:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, name="device-service", daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}"


os.environ |= {
    "SPACES_ZERO_GPU": "true",
    "SPACES_ZERO_DEVICE_API_URL": _start(),
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",  # OpenMP's threads do not survive a fork; a real worker computes on its GPU
}

import torch  # noqa: E402

torch.version.cuda = "13.0"  # a CPU build has no CUDA version, no initialiser and nothing to spoil by forking
torch._C._cuda_init = getattr(torch._C, "_cuda_init", lambda: None)
torch.cuda._is_in_bad_fork = bool  # bool() is False; unlike a lambda it can be sent to another process

import spaces.zero.torch as zero_torch  # noqa: E402
from spaces.zero.torch.patching import cuda_aliases  # noqa: E402


def _arrive(callback: object = None) -> None:
    """Called in a fresh worker: tensors that claimed to be on CUDA get their values, on the CPU."""
    for claimed, values in list(cuda_aliases.items()):
        claimed.data = values


zero_torch.init = lambda uuid: None
zero_torch.pack = lambda: 0  # else the parent's weights would move to files under the home directory
zero_torch.size = lambda: 0
zero_torch.move = _arrive
