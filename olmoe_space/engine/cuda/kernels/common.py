"""What several kernels share."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def wait_for_previous(OVERLAP: tl.constexpr):
    """With OVERLAP, this launch began while the one before it was ending (programmatic dependent launch, from compute
    capability 9.0 on; elsewhere launches follow one another). What that one stored may be read after this call. Read
    before it: weights, and what earlier launches stored, for the one before waited for them ahead of letting this
    begin. Every program calls it, also one with nothing to do.
    """
    if OVERLAP:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def rounded(x, dtype: tl.constexpr):
    """float32 -> the nearest value of `dtype`, still in float32: rounding where transformers rounds."""
    return x.to(dtype).to(tl.float32)


@triton.jit
def normed(x, weight, size, eps, dtype: tl.constexpr):
    """RMSNorm (arXiv 1910.07467) of one float32 row, zero past `size`; the result lies on `dtype`'s grid."""
    scale = tl.rsqrt(tl.sum(x * x, 0) / size + eps)
    return rounded(rounded(x * scale, dtype) * weight.to(tl.float32), dtype)


@triton.jit
def silu(x):
    return x / (1 + tl.exp(-x))


@triton.jit
def last_to_arrive(counter, others):
    """True for the one program that comes after `others` others; what they all stored before is then visible to it.

    Loads after it must pass by the L1 cache (`.cg`). The counter is left at zero for the next launch.
    """
    tl.debug_barrier()  # every thread's stores come before the one thread's release
    last = tl.atomic_add(counter, 1, sem="acq_rel") == others
    if last:
        tl.store(counter, 0)
    return last
