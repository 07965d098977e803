"""Where replies are computed if not in this process, as OLMOE_ENGINE names it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from ..model_info import ModelInfo
from ..settings import Settings


class RemoteEngine(Protocol):
    """What the app uses in place of an engine of its own.

    info: the model behind it. jobs: names of `lab.jobs` that it computes. slots: jobs that it computes at once.
    """

    info: ModelInfo
    jobs: frozenset[str]
    slots: int

    def run(self, name: str, *arguments: Any) -> Iterator[Any]:
        """What the job yields here, it yields there. Raises ValueError with a sentence for the visitor."""

    def state(self) -> dict[str, Any]:
        """Plain values for /healthz: who computes, and how busy."""


def remote_engine(settings: Settings) -> RemoteEngine:
    """The engine at `settings.engine`. Raises ValueError if it is named wrongly or does not answer."""
    address = settings.engine or ""
    if address.startswith(("ray://", "rays://")):
        from .ray_engine import RayEngine
        return RayEngine(address, settings.max_request_s, settings.engine_key)
    if address.startswith(("http://", "https://")):
        from .openai_engine import OpenAIEngine
        return OpenAIEngine(address, settings.engine_key, settings.max_request_s, settings.max_concurrent_chats)
    raise ValueError(f"OLMOE_ENGINE must be ray://HOST:PORT, as `python -m olmoe_space serve` prints it, or the "
                     f"address of an OpenAI-compatible server, http://HOST:PORT/v1; got {address!r}.")
