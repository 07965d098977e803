"""Which kernels compute the model: the one that is asked for, else the fastest there is."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from .cpu.kernels import CpuKernels
from .kernels import BackendUnavailable, Kernels
from .pytorch import PyTorchKernels

log = logging.getLogger(__name__)


BUILDERS: dict[str, Callable[[Any], Kernels]] = {
    "numba": CpuKernels,
    "torch": PyTorchKernels,
}
"""Backend, as OLMOE_BACKEND names it -> model -> its kernels, or BackendUnavailable. Fastest first: the first that can
is taken, and PyTorch can always."""


def choose_kernels(model: Any, backend: str | None = None) -> Kernels:
    """The kernels named `backend`, or the fastest there are for this model on its device.

    Raises BackendUnavailable if the one that was asked for cannot compute this model here.
    """
    if backend is not None:
        return BUILDERS[backend](model)
    for name, build in BUILDERS.items():
        try:
            return build(model)
        except BackendUnavailable as reason:
            log.info("Backend %s is not used: %s", name, reason)
    raise AssertionError("PyTorch computes every model that weights_of accepts.")
