"""Two nodes made on this machine, a replica of olmoe-tiny on each: for all tests of this folder, the faults last."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from olmoe_space.scale.ray_engine import RayEngine
from olmoe_space.settings import tell_ray

from ..serving import free_port
from .replicas import SETTINGS

STORE_BYTES = 100 * 2**20


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "nodes" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.cluster)


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


@pytest.fixture(scope="session")
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
        with ThreadPoolExecutor(1) as driver:  # Ray waits in no thread with an event loop; the browser tests leave one
            try:
                driver.submit(connect, cluster.address).result()
                # "HeadOnly": two proxies on one machine would want the same port
                driver.submit(deploy, SETTINGS, fleet, proxies="HeadOnly").result()
                yield Nodes(cluster, worker, RayEngine(fleet.address, SETTINGS.max_request_s), fleet)
            finally:
                driver.submit(end).result()
                cluster.shutdown()
