"""Settings of one process, read once from the environment. Nothing else here reads os.environ."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path

EMBEDDED_MODEL = Path(__file__).resolve().parent.parent / "assets" / "olmoe-tiny"
HUB_MODEL = "allenai/OLMoE-1B-7B-0125-Instruct"
DTYPES = ("float32", "bfloat16", "float16")
WEIGHTS = ("int8",)
BACKENDS = ("triton", "numba", "torch")


@dataclass(frozen=True)
class ApiKey:
    """A bearer token of the OpenAI-compatible face; None: no limit. The token is in no repr, so in no log."""

    token: str = field(repr=False)
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


@dataclass(frozen=True)
class Settings:
    """What may be set from outside, and the limits that keep a public demo alive."""

    model: str | None = None  # OLMOE_MODEL: hub id or folder; None: by device
    dtype: str | None = None  # OLMOE_DTYPE: one of DTYPES; None: what the device does best
    weights: str | None = None  # OLMOE_WEIGHTS: one of WEIGHTS; None: as wide as the dtype
    backend: str | None = None  # OLMOE_BACKEND: one of BACKENDS; None: the fastest there is for the model
    engine: str | None = None  # OLMOE_ENGINE: where replies are computed; None: in this process
    host: str = "127.0.0.1"   # GRADIO_SERVER_NAME
    port: int = 7860          # PORT
    api_keys: tuple[ApiKey, ...] = ()  # OLMOE_API_KEYS: who may use the OpenAI-compatible face; none: this machine
    engine_key: str | None = field(default=None, repr=False)  # OLMOE_ENGINE_KEY: bearer token for OLMOE_ENGINE

    on_space: bool = False    # SPACE_ID is set: running as a Hugging Face Space
    on_zero_gpu: bool = False  # SPACES_ZERO_GPU is set: GPU work runs in forked workers

    # Limits, each with its reason.
    max_new_tokens: int = 1024         # tokens a reply; longer ones hold the GPU too long for the others
    max_message_chars: int = 32_000    # characters a message; about twice what fits a context of 4096
    max_history_chars: int = 400_000   # characters a history; more is dropped by the context window anyway
    max_history_messages: int = 2_000  # messages a history, for the same reason
    max_upload_bytes: int = 1_000_000  # a file that is uploaded; a saved view, which Open reads, is far smaller
    max_request_s: float = 120.0       # seconds a reply may take before it is ended with what there is
    max_queue: int = 64                # visitors waiting; beyond it, a clear refusal beats a long wait
    max_slots: int = 16                # replies decoded at once, Compare's columns each one; memory may allow fewer
    max_concurrent_chats: int = 8      # replies decoded in turn; beyond it each would crawl
    max_sessions: int = 250            # whose page state is kept, 0.04 MB and more; the longest idle one's goes first
    live_updates_per_s: float = 10.0   # pictures a second; more costs tokens and no eye sees it

    def __post_init__(self) -> None:
        if self.dtype is not None and self.dtype not in DTYPES:
            raise ValueError(f"OLMOE_DTYPE must be one of {', '.join(DTYPES)}; got {self.dtype!r}.")
        if self.weights is not None and self.weights not in WEIGHTS:
            raise ValueError(f"OLMOE_WEIGHTS must be int8, or unset for weights as wide as OLMOE_DTYPE; "
                             f"got {self.weights!r}.")
        if self.backend is not None and self.backend not in BACKENDS:
            raise ValueError(f"OLMOE_BACKEND must be one of {', '.join(BACKENDS)}; got {self.backend!r}.")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"PORT must be from 0 to 65535; got {self.port}.")


def from_environment(env: Mapping[str, str] = os.environ) -> Settings:
    """Settings from `env`. Raises ValueError naming the variable that cannot be used."""
    port = env.get("PORT") or env.get("GRADIO_SERVER_PORT") or "7860"
    if not port.isdecimal():
        raise ValueError(f"PORT must be a whole number; got {port!r}.")
    on_space = bool(env.get("SPACE_ID"))
    return Settings(
        model=env.get("OLMOE_MODEL") or None,
        dtype=env.get("OLMOE_DTYPE") or None,
        weights=env.get("OLMOE_WEIGHTS") or None,
        backend=env.get("OLMOE_BACKEND") or None,
        engine=env.get("OLMOE_ENGINE") or None,
        host=env.get("GRADIO_SERVER_NAME") or ("0.0.0.0" if on_space else "127.0.0.1"),
        port=int(port),
        api_keys=_api_keys(env.get("OLMOE_API_KEYS") or ""),
        engine_key=env.get("OLMOE_ENGINE_KEY") or None,
        on_space=on_space,
        on_zero_gpu=bool(env.get("SPACES_ZERO_GPU")),
    )


def tell_ray(env: MutableMapping[str, str] = os.environ) -> None:
    """What Ray is to know before it starts and takes from the environment alone: it is not to report its use, the
    replicas are what the machine is for (Ray gives its workers the niceness 15), and half a second is often enough for
    Serve's controller to look (ten looks a second take an eighth of a core)."""
    env.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    env.setdefault("RAY_worker_niceness", "0")
    env.setdefault("RAY_SERVE_CONTROL_LOOP_INTERVAL_S", "0.5")


def _api_keys(text: str) -> tuple[ApiKey, ...]:
    """ "TOKEN", "TOKEN:REQUESTS" or "TOKEN:REQUESTS:TOKENS" (a minute; empty: no limit), comma-separated. What is wrong
    is told by its place, never by its text, which is secret."""
    keys = []
    for place, item in enumerate(filter(None, map(str.strip, text.split(","))), 1):
        token, *limits = (part.strip() for part in item.split(":"))
        if not token or any(c.isspace() for c in token) or len(limits) > 2 or not all(
                not limit or (limit.isdecimal() and int(limit) > 0) for limit in limits):
            raise ValueError(f"OLMOE_API_KEYS, key {place}: write TOKEN, TOKEN:REQUESTS_A_MINUTE or "
                             "TOKEN:REQUESTS_A_MINUTE:TOKENS_A_MINUTE, limits of at least 1 or left empty.")
        keys.append(ApiKey(token, *(int(limit) if limit else None for limit in limits)))
    if len({key.token for key in keys}) < len(keys):
        raise ValueError("OLMOE_API_KEYS names the same token twice; give each its limits once.")
    return tuple(keys)
