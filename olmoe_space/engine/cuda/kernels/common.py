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
def widened(w, dtype: tl.constexpr):
    """Weights as numbers of `dtype`: every int8 is exact in each, and its row's scale is applied to the row's sum."""
    if w.dtype == tl.int8:
        w = from_byte(w.to(tl.int32))
    return w.to(dtype)


@triton.jit
def from_byte(bits):
    """The lowest byte of an int32, a signed number, in float32.

    float32's 2^23 + 128 + n has the bits 0x4B000000 + 128 + n: a byte put in its place and one subtraction, where an
    instruction that converts would run on the few slow lanes of a multiprocessor.
    """
    return ((bits & 0xFF) ^ 0x4B000080).to(tl.float32, bitcast=True) - 8388736.0


@triton.jit
def scales(scale, at, mask):
    """scale[at] of int8 weights; 1 for weights that have none, which compiles to nothing."""
    if scale is None:
        found = tl.full(at.shape, 1.0, tl.float32)
    else:
        found = tl.load(scale + at, mask=mask, other=0.0)
    return found


@triton.jit
def part_of(first, second, third, first_rows, second_rows, third_rows, start):
    """The one of [first; second; third] in which row `start` lies, that row's place in it and how many rows it has."""
    part, begin, end = first, start, first_rows
    if start >= first_rows + second_rows:
        part, begin, end = third, start - first_rows - second_rows, third_rows
    elif start >= first_rows:
        part, begin, end = second, start - first_rows, second_rows
    return part, begin, end


@triton.jit
def scales_of(first, second, third, first_rows, second_rows, third_rows, start, ROWS: tl.constexpr):
    """`scales` of rows start, start + 1, ... of [first; second; third]."""
    if first is None:
        found = tl.full([ROWS], 1.0, tl.float32)
    else:
        part, begin, end = part_of(first, second, third, first_rows, second_rows, third_rows, start)
        found = scales(part, begin + tl.arange(0, ROWS), begin + tl.arange(0, ROWS) < end)
    return found


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
