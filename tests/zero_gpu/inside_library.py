"""What the design leans on, shown on a small generator: run under `tests.zero_gpu.device`.

If a release of `spaces` changes any of it, this fails before the app does.
"""

from __future__ import annotations

import os
import threading
import time

import gradio as gr
import pytest
import spaces
import torch
from spaces.zero.config import get_config

from tests.examples import EVENTS
from tests.test_events import same
from tests.zero_gpu.device import SERVICE

CLOSED = torch.zeros(1, dtype=torch.int32).share_memory_()  # both sides of a fork see it
STEPS = torch.zeros(1, dtype=torch.int32).share_memory_()
remembered = "nothing"


def seconds(task: str, argument: object = None) -> int:
    return 30 if task == "short" else 40


@spaces.GPU(duration=seconds)
def work(task: str, argument: object = None):
    global remembered
    if task == "who":
        yield os.getpid(), remembered, threading.current_thread() is threading.main_thread()
        remembered = str(argument)
    elif task == "events":
        yield from EVENTS
    elif task == "endless":
        try:
            while True:
                STEPS.add_(1)
                yield int(STEPS)
                time.sleep(0.02)
        finally:
            CLOSED.add_(1)
    elif task == "gr.Error":
        yield "first"
        raise gr.Error("k must be from 1 to 64; got 65.", print_exception=False)
    elif task == "ValueError":
        raise ValueError("a sentence that gets lost")
    elif task == "unpicklable":
        yield lambda: None
    elif task == "short":
        yield "done"


@pytest.fixture(autouse=True)
def _fresh():
    SERVICE.reset()
    CLOSED.zero_()
    STEPS.zero_()


def test_a_call_runs_in_a_forked_worker_which_is_kept_with_its_globals():
    [(first, before, in_main)] = work("who", "the first visitor")
    [(second, after, _)] = work("who")
    assert first != os.getpid() and not in_main
    assert second == first and after == "the first visitor"  # hence: keep nothing of a visitor in a global
    assert before in ("nothing", "None") and remembered == "nothing"


def test_every_event_crosses():
    received = list(work("events"))
    assert all(same(got, sent) for got, sent in zip(received, EVENTS, strict=True))


def test_closing_closes_the_workers_generator_at_its_next_yield():
    steps = work("endless")
    assert [next(steps) for _ in range(3)] == [1, 2, 3]
    steps.close()
    assert int(CLOSED) == 1
    stopped_at = int(STEPS)
    time.sleep(0.2)
    assert int(STEPS) == stopped_at


def test_only_gr_error_keeps_its_message():
    calls = work("gr.Error")
    assert next(calls) == "first"
    with pytest.raises(gr.Error) as crossed:
        next(calls)
    assert crossed.value.message == "k must be from 1 to 64; got 65."
    with pytest.raises(gr.Error) as lost:
        list(work("ValueError"))
    assert "sentence" not in str(lost.value.message) and "ValueError" in str(lost.value.message)


def test_a_worker_goes_on_after_an_error():
    with pytest.raises(gr.Error):
        list(work("gr.Error"))
    assert list(work("short")) == ["done"]


def test_what_does_not_pickle_does_not_cross():
    with pytest.raises(gr.Error):
        list(work("unpicklable"))


def test_the_duration_asked_for_depends_on_the_calls_arguments():
    factor = get_config()["duration_factor"]  # of the hardware
    list(work("short"))
    list(work("events"))
    assert [float(query["durationSeconds"]) for query in SERVICE.queries("/schedule")] == [30 * factor, 40 * factor]


def test_a_call_over_the_quota_is_refused_in_words():
    SERVICE.quota_left_s = 10
    with pytest.raises(gr.Error) as refused:
        list(work("short"))
    assert "limit" in str(refused.value.message) or "quota" in str(refused.value.message)
