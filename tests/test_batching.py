"""Steps of many threads become steps of few, and nobody's trouble is another's."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from olmoe_space.engine.batching import SEATS, Batcher
from olmoe_space.engine.fair_lock import FairLock
from olmoe_space.engine.kernels import Step


class Counting:
    """Kernels whose lanes are numbers; each step gives lane * 10, or the lane's error. `gate` holds a step back."""

    name = "counting"

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.gate = threading.Event()
        self.entered = threading.Event()

    def step(self, lanes: Sequence[Any], stop_ids: frozenset[int]) -> list[Step | Exception]:
        self.entered.set()
        self.gate.wait(30)
        self.batches.append(list(lanes))
        if "broken" in lanes:
            raise MemoryError("no room")
        return [lane if isinstance(lane, Exception) else Step(lane * 10, None) for lane in lanes]


def started(work: Any) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_those_who_wait_go_together_and_get_their_own() -> None:
    kernels, found = Counting(), {}
    batcher = Batcher(kernels, FairLock())  # type: ignore[arg-type]

    def ask(lane: int) -> None:
        found[lane] = batcher.step([lane], frozenset())

    first = started(lambda: ask(0))
    assert kernels.entered.wait(30)
    others = [started(lambda lane=lane: ask(lane)) for lane in range(1, SEATS + 3)]
    with batcher._changed:
        assert batcher._changed.wait_for(lambda: len(batcher._waiting) == SEATS + 2, 30)
    kernels.gate.set()
    for thread in (first, *others):
        thread.join(30)
    assert found == {lane: [Step(lane * 10, None)] for lane in range(SEATS + 3)}
    assert [len(batch) for batch in kernels.batches] == [1, SEATS, 2]


def test_a_lane_that_fails_leaves_the_others_their_tokens() -> None:
    kernels = Counting()
    kernels.gate.set()
    error = RuntimeError("not a number")
    assert Batcher(kernels, FairLock()).step([1, error, 2], frozenset()) == [  # type: ignore[arg-type]
        Step(10, None), error, Step(20, None)]


def test_a_step_that_fails_is_told_and_the_next_one_runs() -> None:
    kernels = Counting()
    kernels.gate.set()
    batcher = Batcher(kernels, FairLock())  # type: ignore[arg-type]
    with pytest.raises(MemoryError):
        batcher.step(["broken"], frozenset())
    assert batcher.step([3], frozenset()) == [Step(30, None)]


def test_a_step_waits_for_whoever_holds_the_turn() -> None:
    kernels, turn = Counting(), FairLock()
    kernels.gate.set()
    batcher = Batcher(kernels, turn)  # type: ignore[arg-type]
    with turn:
        thread = started(lambda: batcher.step([1], frozenset()))
        assert not kernels.entered.wait(0.1)
    thread.join(30)
    assert kernels.batches == [[1]]
