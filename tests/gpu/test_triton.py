"""The Triton kernels on a CUDA device: `pytest -m gpu tests/gpu`."""

from __future__ import annotations

import pytest
import torch

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("case", range(7))
def test_decode_steps_equal_our_forward_in_float32(case: int) -> None:
    from ..interpreted_step import CASES, check

    shape, ks, lengths = CASES[case]
    check(shape, ks, lengths, steps=12, device="cuda")
