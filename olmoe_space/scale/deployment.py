"""Replicas under Ray Serve: how many, on what, and when Ray takes one for dead.

Two applications: the replicas themselves at /engine, so that a reply's events cross Ray once, and a small one beside
them at / that tells what the replicas do and has the OpenAI-compatible face.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from ray.serve.schema import LoggingConfig

from ..engine.batching import SEATS
from ..settings import Settings
from .front import Front, summary
from .ray_engine import JOB_PATH
from .replica import Replica
from .router import MostFreeSlots

ROOT = Path(__file__).resolve().parents[2]
SENT = ("olmoe_space", "assets")  # to each node, and nothing else that may lie beside them
ENGINE, FRONT = "engine", "front"
OBJECT_STORE_BYTES = 100 * 2**20  # events are small and pass by; Ray would take a third of the memory
HEALTH_PERIOD_S, HEALTH_TIMEOUT_S = 2.0, 5.0  # three silences in a row, 21 s, and a replica is replaced
CORE_SLOTS = 8  # replies a core; beyond it each would crawl
BUSY = 0.75  # of the slots, above which autoscaling adds a replica
START_LIMIT_S = 60.0
LOOK_EVERY_S, LOST_S = 5.0, 60.0
EVERYWHERE = ("0.0.0.0", "::")


@dataclass(frozen=True)
class Fleet:
    """min_replicas, max_replicas: Ray scales between them by load. gpus, cpus: of one replica; cpus are also its
    threads where there is no GPU. host, port: of the proxies, one on each node that has a replica."""

    min_replicas: int = 1
    max_replicas: int = 1
    gpus: float = 0
    cpus: float = 1
    host: str = "127.0.0.1"
    port: int = 8000

    @property
    def slots(self) -> int:
        """Replies that a replica is given at once, if its memory has room for them; the others wait."""
        return SEATS if self.gpus else CORE_SLOTS * max(1, int(self.cpus))

    @property
    def address(self) -> str:
        """As a front end on one of the nodes names it."""
        return f"ray://{'127.0.0.1' if self.host in EVERYWHERE else self.host}:{self.port}"


def fleet_for(replicas: tuple[int, int], gpus: float | None, cpus: float, host: str, port: int) -> Fleet:
    """gpus: None is one of each replica where the cluster has any. Raises ValueError if the cluster is too small for
    the least that is asked for: Ray would wait for it without end."""
    there = ray.cluster_resources()
    gpus = float(there.get("GPU", 0) > 0) if gpus is None else gpus
    fleet = Fleet(*replicas, gpus, cpus, host, port)
    for name, each in (("GPU", gpus), ("CPU", cpus)):
        if fleet.min_replicas * each > there.get(name, 0):
            raise ValueError(f"{fleet.min_replicas} replicas need {fleet.min_replicas * each:g} {name}s; the cluster "
                             f"has {there.get(name, 0):g}. Ask for fewer, or add nodes.")
    return fleet


def connect(address: str | None) -> None:
    """To the Ray cluster at `address`, whose nodes are sent this code, or to a new one on this machine. Raises
    ValueError if there is none at the address."""
    common: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    if address is None:
        ray.init(address="local", include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **common)
    else:
        try:
            others = [f"/{path.name}" for path in ROOT.iterdir() if path.name not in SENT]
            ray.init(address=address, runtime_env={"working_dir": str(ROOT), "excludes": [*others, "__pycache__"]},
                     **common)
        except ConnectionError as error:
            raise ValueError(f"No Ray cluster answers at {address}. `ray start --head` begins one.") from error


def deploy(settings: Settings, fleet: Fleet, proxies: str = "EveryNode") -> None:
    """Returns when the replicas answer. Deployed again, with other settings, Ray replaces one replica after the other
    and lets each end the replies that it has begun. Raises RuntimeError if they do not come up."""
    quiet = LoggingConfig(enable_access_log=False)
    serve.start(proxy_location=proxies, http_options={"host": fleet.host, "port": fleet.port},
                logging_config=quiet)
    slots = fleet.slots
    settings = replace(settings, max_slots=max(settings.max_slots, slots))
    deployment: Any = serve.deployment
    router: dict[str, Any] = {"request_router_class": MostFreeSlots}
    engine = deployment(
        Replica, name=ENGINE, max_ongoing_requests=slots, max_queued_requests=settings.max_queue,
        autoscaling_config=AutoscalingConfig(min_replicas=fleet.min_replicas, max_replicas=fleet.max_replicas,
                                             target_ongoing_requests=BUSY * slots),
        ray_actor_options={"num_cpus": fleet.cpus, "num_gpus": fleet.gpus},
        health_check_period_s=HEALTH_PERIOD_S, health_check_timeout_s=HEALTH_TIMEOUT_S,
        graceful_shutdown_timeout_s=settings.max_request_s, graceful_shutdown_wait_loop_s=0.5,
        request_router_config=RequestRouterConfig(**router),
    ).bind(settings, slots, None if fleet.gpus else max(1, int(fleet.cpus)))
    handle = serve.run(engine, name=ENGINE, route_prefix=JOB_PATH, logging_config=quiet)
    most_slots = slots * fleet.max_replicas
    told = summary(handle.broadcast("state").results(timeout_s=START_LIMIT_S), most_slots)
    handle.shutdown()
    front = deployment(Front, name=FRONT, ray_actor_options={"num_cpus": 0}).bind(
        settings, ENGINE, fleet.address, most_slots, told)
    serve.run(front, name=FRONT, route_prefix="/", logging_config=quiet)


def until_lost() -> None:
    """Returns when the replicas have been unknown to Ray for LOST_S: taken down by somebody, or the head restarted
    without its memory."""
    seen = time.monotonic()
    while time.monotonic() - seen < LOST_S:
        time.sleep(LOOK_EVERY_S)
        try:
            is_there = ENGINE in serve.status().applications
        except (ray.exceptions.RayError, serve.exceptions.RayServeException):
            is_there = False
        if is_there:
            seen = time.monotonic()


def end() -> None:
    """Takes the replicas down; replies that run may end. A cluster that `connect` began ends with it."""
    if ray.is_initialized():
        for name in (FRONT, ENGINE):
            serve.delete(name)
        ray.shutdown()
