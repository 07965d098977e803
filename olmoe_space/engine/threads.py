"""How many CPU threads a forward is worth."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..model.structure import OlmoeWeights

SMALL_HIDDEN = 512
FEW_TOKENS = 8  # a decode step of several requests as rows of one batch


@contextmanager
def threads_for(weights: OlmoeWeights, tokens: int) -> Iterator[None]:
    """One thread for a small model's decode step of a few rows on a CPU, else all.

    Such a step is a thousand products of a few microseconds each. Splitting them gains nothing (olmoe-tiny at k=8, two
    cores: 10.4 ms with one thread, 11.0 with two, at best), and each of them then waits for the slower thread: with
    something else running, the median with two was 19 ms, with one 11. Four requests as rows at k = 8, 16, 32 and
    64, on a busy machine: 64 steps took 7 s with one thread, 39 s and more with two.
    """
    before = torch.get_num_threads()
    if weights.device.type != "cpu" or tokens > FEW_TOKENS or weights.embedding.shape[1] > SMALL_HIDDEN or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
