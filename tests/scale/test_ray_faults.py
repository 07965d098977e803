"""What may die under a reply: a replica, a node, the head, a connection. The reply is the one that the request gets
alone, each event once, and the others' too. Two nodes on this machine, a replica on each."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from olmoe_space.scale.ray_engine import SILENCE_S, RayEngine
from olmoe_space.settings import tell_ray

from ..serving import free_port
from .replicas import SETTINGS, alone, begun_on, in_background, ready, replica, request

STORE_BYTES = 100 * 2**20


@dataclass
class Nodes:
    cluster: Any
    worker: Any
    engine: RayEngine
    fleet: Any

    def on_worker(self, one: dict[str, Any]) -> bool:
        return parent(one["pid"]) == raylet(self.worker)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def raylet(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)


def processes_of(node: Any) -> list[int]:
    """Its raylet and everything that it began."""
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
    return [raylet(node), *(pid for pid in pids if parent(pid) == raylet(node))]


@contextmanager
def frozen(*pids: int) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_AUTH_MODE", "disabled")  # else a token would be written to the home folder
        environment.setenv("RAY_gcs_storage", "rocksdb")
        environment.setenv("RAY_gcs_storage_path", str(tmp_path_factory.mktemp("gcs")))
        tell_ray()
        from ray.cluster_utils import Cluster

        from olmoe_space.scale.deployment import Fleet, connect, deploy, end

        cluster = Cluster(initialize_head=True, head_node_args={
            "num_cpus": 1, "object_store_memory": STORE_BYTES, "include_dashboard": False})
        worker = cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        fleet = Fleet(2, 2, cpus=1, port=free_port())
        try:
            connect(cluster.address)
            deploy(SETTINGS, fleet, proxies="HeadOnly")  # two on one machine would want the same port
            yield Nodes(cluster, worker, RayEngine(fleet.address, SETTINGS.max_request_s), fleet)
        finally:
            end()
            cluster.shutdown()


def test_a_replica_is_killed_in_mid_reply(nodes: Nodes) -> None:
    victim = ready(nodes.engine, 2)[0]
    others = in_background(nodes.engine, (1, 2, 3))
    reply, rest = begun_on(nodes.engine, victim["replica"], seed=0)
    os.kill(victim["pid"], signal.SIGKILL)
    reply.read(rest)
    assert tuple(reply.token_ids) == alone(0)
    assert reply.answered_by.startswith(f"replica {victim['replica']}, then ")
    for seed, other in zip((1, 2, 3), others, strict=True):
        assert tuple(other.result(60).token_ids) == alone(seed)
        assert other.result().answered_by == f"replica {other.result().answered_by[8]}" or "then" in (
            other.result().answered_by)
    ready(nodes.engine, 2, without=[victim["pid"]])


def test_a_silent_replica_is_left(nodes: Nodes) -> None:
    ready(nodes.engine, 2)
    slow = replica(nodes.engine)
    reply, rest = begun_on(nodes.engine, slow["replica"], seed=4)
    began = time.monotonic()
    with frozen(slow["pid"]):
        reply.read(rest)
        took = time.monotonic() - began
        asked_meanwhile = in_background(nodes.engine, (5,))[0].result(60)
    assert tuple(reply.token_ids) == alone(4) and "then" in reply.answered_by
    assert SILENCE_S < took < 4 * SILENCE_S
    assert tuple(asked_meanwhile.token_ids) == alone(5)


def test_the_head_restarts_in_mid_reply(nodes: Nodes) -> None:
    ready(nodes.engine, 2)
    reply, rest = begun_on(nodes.engine, replica(nodes.engine)["replica"], seed=6)
    nodes.cluster.head_node.kill_gcs_server()
    reply.read(rest)
    without_head = in_background(nodes.engine, (7,))[0].result(60)
    nodes.cluster.head_node.start_gcs_server()
    with_head = in_background(nodes.engine, (8,))[0].result(60)
    assert tuple(reply.token_ids) == alone(6) and "then" not in reply.answered_by
    assert tuple(without_head.token_ids) == alone(7) and tuple(with_head.token_ids) == alone(8)
    ready(nodes.engine, 2)


def test_a_reply_outlives_a_new_deployment(nodes: Nodes) -> None:
    from olmoe_space.scale.deployment import deploy

    old = ready(nodes.engine, 2)
    events = nodes.engine.run("chat", request(9, 900))
    first = next(events)
    deploy(replace(SETTINGS, max_request_s=100), nodes.fleet, proxies="HeadOnly")
    new = ready(nodes.engine, 2, without=[one["pid"] for one in old])
    assert first.seed == 9 and {one["pid"] for one in new}.isdisjoint(one["pid"] for one in old)


def test_a_node_is_cut_off_in_mid_reply(nodes: Nodes) -> None:
    ready(nodes.engine, 2)
    cut_off = replica(nodes.engine, nodes.on_worker)
    reply, rest = begun_on(nodes.engine, cut_off["replica"], seed=10)
    with frozen(*processes_of(nodes.worker)):
        reply.read(rest)
    assert tuple(reply.token_ids) == alone(10) and "then" in reply.answered_by
    ready(nodes.engine, 2)


def test_a_node_is_killed_in_mid_reply(nodes: Nodes) -> None:
    ready(nodes.engine, 2)
    victim = replica(nodes.engine, nodes.on_worker)
    reply, rest = begun_on(nodes.engine, victim["replica"], seed=12)
    nodes.cluster.remove_node(nodes.worker, allow_graceful=False)
    reply.read(rest)
    assert tuple(reply.token_ids) == alone(12) and "then" in reply.answered_by
    assert tuple(in_background(nodes.engine, (13,))[0].result(60).token_ids) == alone(13)
