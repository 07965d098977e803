"""Wiring: settings -> model -> engine -> GPU call -> page. `python app.py` serves it."""

import gc

gc.disable()  # until all is loaded: looking for garbage among what stays took a quarter of the start

import spaces  # isort: skip  (before anything that touches CUDA)

import logging
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import gradio as gr

from olmoe_space.engine.engine import Engine
from olmoe_space.engine.proof import prove
from olmoe_space.lab.jobs import JOBS, computed
from olmoe_space.model import memory
from olmoe_space.model.loader import ModelUnavailable, load
from olmoe_space.scale.engines import remote_engine
from olmoe_space.settings import from_environment
from olmoe_space.shell.stopping import terminable
from olmoe_space.traffic import Traffic
from olmoe_space.ui.page import build_page, launch_options
from olmoe_space.ui.status import status_route
from olmoe_space.ui.tools import keep_texts_out_of_the_log

logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
keep_texts_out_of_the_log()
log = logging.getLogger("olmoe_space")

try:
    settings = from_environment()
    remote = remote_engine(settings) if settings.engine else None
    if remote is None:
        loaded = load(settings)
        backend = settings.backend or ("torch" if settings.on_zero_gpu else None)  # a fork a call has no use for graphs
        engine = Engine(loaded.model, loaded.tokenizer, settings.max_request_s, backend, loaded.room)
        info = replace(loaded.info, backend=engine.kernels.name)
        at_once = min(settings.max_concurrent_chats, loaded.room.slots)
        if not settings.on_zero_gpu:  # there the device exists only inside a call
            log.info("k takes effect: another k moves the logits by %.0f %%.",
                     100 * prove(loaded.model, engine.kernels))
    else:
        info, at_once = remote.info, remote.slots
    settings = replace(settings, max_concurrent_chats=at_once)
except (ModelUnavailable, ValueError) as error:
    sys.exit(f"OLMoE Space cannot start: {error}")

_proved = not settings.on_zero_gpu
traffic = Traffic(refusals=(ValueError, gr.Error))


def _seconds_needed(name: str, *arguments: Any) -> int:
    return JOBS[name].seconds(*arguments)


@spaces.GPU(duration=_seconds_needed)
def run_on_gpu(name: str, *arguments: Any) -> Iterator[Any]:
    """A job of `lab.jobs`, run where the model's device is; on ZeroGPU that is a forked worker, out of which only
    gr.Error keeps its message. Elsewhere the decorator does nothing."""
    global _proved
    try:
        if not _proved:
            prove(loaded.model, engine.kernels)
            _proved = True  # of this worker
        yield from computed(engine, name, *arguments)
    except ValueError as error:
        raise gr.Error(str(error), print_exception=False) from error


def on_gpu(name: str, *arguments: Any) -> Iterator[Any]:
    """`run_on_gpu`, and a worker that died told in words: `spaces` says "GPU task aborted"."""
    try:
        yield from run_on_gpu(name, *arguments)
    except gr.Error as error:
        if error.title != "ZeroGPU worker error" or error.message != "GPU task aborted":
            raise
        raise gr.Error("The GPU was taken away in the middle of the work. Try again.", print_exception=False) from error


def run(name: str, *arguments: Any) -> Iterator[Any]:
    """A job of `lab.jobs` where it belongs, counted and logged."""
    compute = on_gpu if remote is None else remote.run
    results = compute(name, *arguments) if JOBS[name].on_device else computed(None, name, *arguments)
    return traffic.watched(name, results)


def state() -> dict[str, Any]:
    """What /healthz tells beside the model."""
    where = {"slots": loaded.room.slots, "context": loaded.room.context} if remote is None else remote.state()
    return traffic.counts() | where | {"memory_bytes": memory.resident_bytes()}


can_do_all = remote is None or remote.jobs >= {name for name, job in JOBS.items() if job.on_device}
demo = build_page(info, partial(run, "chat"), settings, run if can_do_all else None,
                  remote.state if remote is not None else None)
gc.freeze()  # what was loaded stays, so no later collection looks at it, and a fork shares its pages
gc.enable()

if __name__ == "__main__":
    log.info("Serving %s (%s, %s) at http://%s:%s", info.name, info.dtype, info.device, settings.host, settings.port)
    with terminable():  # a Space is stopped by SIGTERM: as Ctrl-C, it closes the server instead of cutting it off
        demo.launch(**launch_options(settings, [status_route(info, demo, state)]))
