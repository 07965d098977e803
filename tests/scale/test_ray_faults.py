"""What may die under a reply: a replica, a node, the head, a connection. The reply is the one that the request gets
alone, each event once, and the others' too. Two nodes on this machine, a replica on each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from olmoe_space.scale.ray_engine import SILENCE_S
from olmoe_space.settings import EMBEDDED_MODEL

from ..serving import REPOSITORY
from .conftest import Nodes, processes_of
from .replicas import alone, begun_on, in_background, ready, replica, wait_for


@contextmanager
def frozen(*pids: int) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


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
    ready(nodes.engine, 2, without=[victim["pid"]])


def test_a_silent_replica_is_left(nodes: Nodes) -> None:
    ready(nodes.engine, 2)
    slow = replica(nodes.engine)
    reply, rest = begun_on(nodes.engine, slow["replica"], seed=4)
    began = time.monotonic()
    with frozen(slow["pid"]):
        wait_for(lambda: nodes.engine.state()["told_s_ago"] > SILENCE_S / 2)
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


@pytest.mark.timeout(600)
def test_chats_do_not_notice_a_new_deployment(nodes: Nodes) -> None:
    """By the shell, with another setting, while two visitors ask reply after reply."""
    old = ready(nodes.engine, 2)
    done = threading.Event()

    def visitor(seed: int) -> int:
        asked = 0
        while not done.is_set():
            assert tuple(in_background(nodes.engine, (seed,))[0].result(120).token_ids) == alone(seed)
            asked += 1
        return asked

    shell = [sys.executable, "-m", "olmoe_space", "--model", str(EMBEDDED_MODEL), "serve", "--replicas", "2",
             "--port", str(nodes.fleet.port), "--address", nodes.cluster.address, "--detach"]
    with ThreadPoolExecutor() as threads:
        visitors = [threads.submit(visitor, seed) for seed in (4, 8)]
        try:
            run = subprocess.run(shell, cwd=REPOSITORY, env=os.environ | {"OLMOE_BACKEND": "numba"},
                                 capture_output=True, text=True, timeout=500)
            assert run.returncode == 0 and f"OLMOE_ENGINE={nodes.fleet.address}" in run.stdout, run.stderr
            ready(nodes.engine, 2, without=[one["pid"] for one in old])
        finally:
            done.set()
    assert all(one.result() >= 2 for one in visitors)


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
