"""Which kernels compute the model: the one that is asked for, else the fastest there is."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from ..model.memory import Room
from .cpu.kernels import CpuKernels
from .kernels import BackendUnavailable, Kernels
from .pytorch import PyTorchKernels

log = logging.getLogger(__name__)


def _triton(model: Any, room: Room | None) -> Kernels:
    """Triton is imported only where it can be used: it takes a second."""
    if model.device.type != "cuda":
        raise BackendUnavailable("The Triton kernels need a CUDA device; the model is on the CPU.")
    if find_spec("triton") is None:
        raise BackendUnavailable("Triton is not installed; PyTorch for CUDA on Linux brings it.")
    from .cuda.lanes import TritonKernels

    return TritonKernels(model, room)


BUILDERS: dict[str, Callable[[Any, Room | None], Kernels]] = {
    "triton": _triton,
    "numba": lambda model, room: CpuKernels(model),
    "torch": lambda model, room: PyTorchKernels(model),
}
"""Backend, as OLMOE_BACKEND names it -> model, room -> its kernels, or BackendUnavailable. Fastest first: the first
that can is taken, and PyTorch can always."""


def choose_kernels(model: Any, backend: str | None = None, room: Room | None = None) -> Kernels:
    """The kernels named `backend`, or the fastest there are for this model on its device.

    Raises BackendUnavailable if the one that was asked for cannot compute this model here.
    """
    if backend is not None:
        return BUILDERS[backend](model, room)
    for name, build in BUILDERS.items():
        try:
            return build(model, room)
        except BackendUnavailable as reason:
            log.info("Backend %s is not used: %s", name, reason)
    raise AssertionError("PyTorch computes every model that weights_of accepts.")
