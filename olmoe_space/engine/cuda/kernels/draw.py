"""A slot's logits -> its next token, drawn on the device, and that token's embedding.

The rule is that of `engine.sampling`: temperature 0 is the first of the largest; else the smallest set of most
probable tokens that reaches top_p. Within it the largest of log p + Gumbel noise wins, which draws from exactly p. The
noise is a counter-based generator's (Philox, Salmon et al. 2011) at (seed, position, token): it knows nothing of other
rows.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .common import wait_for_previous


@triton.jit
def ordered(x, SHIFT: tl.constexpr):
    """float32 -> int32 in the same order; SHIFT drops bits that the model's dtype does not have."""
    bits = x.to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)) >> SHIFT


@triton.jit
def mass_from(at, key, top, temperature, size, SHIFT: tl.constexpr, BLOCK: tl.constexpr):
    """Sum of exp((logit - top) / temperature) over logits whose order is `key` or above."""
    sums = tl.zeros([BLOCK], tl.float32)
    for start in range(0, size, BLOCK):
        i = start + tl.arange(0, BLOCK)
        v = tl.load(at + i, mask=i < size, other=float("-inf")).to(tl.float32)
        sums += tl.where(ordered(v, SHIFT) >= key, tl.exp((v - top) / temperature), 0.0)
    return tl.sum(sums, 0)


@triton.jit
def draw(logits, slots, forced, temperatures, top_ps, seeds, positions, tokens, embedding, x, trace, trace_width,
         vocabulary, size, SHIFT: tl.constexpr, BLOCK: tl.constexpr, COLUMNS: tl.constexpr,
         OVERLAP: tl.constexpr):
    """One program a row of the batch: a token into tokens[slot] and the trace's last column (there -1 if the logits
    are not numbers), its embedding into x[row].

    forced[slot] >= 0 is taken instead of a draw. positions[slot] grows by the token that is now fed.
    """
    row = tl.program_id(0)
    wait_for_previous(OVERLAP)
    slot = tl.load(slots + row)
    if slot < 0:
        return
    at = logits + slot.to(tl.int64) * vocabulary
    temperature = tl.load(temperatures + slot)
    position = tl.load(positions + slot)
    token = tl.load(forced + slot)
    sound = True
    if token < 0:
        best = tl.full([BLOCK], float("-inf"), tl.float32)
        best_at = tl.zeros([BLOCK], tl.int32)
        for start in range(0, vocabulary, BLOCK):
            i = start + tl.arange(0, BLOCK)
            v = tl.load(at + i, mask=i < vocabulary, other=float("-inf")).to(tl.float32)
            best_at = tl.where(v > best, i, best_at)
            best = tl.maximum(best, v)
        top = tl.max(best, 0)
        token = tl.min(tl.where(best == top, best_at, vocabulary - 1), 0)
        sound = top > float("-inf")  # not so where no logit is a number
        if temperature > 0:
            temperature = tl.maximum(temperature, 1e-6)
            low = ordered(tl.maximum(top - 104 * temperature, -3e38), SHIFT).to(tl.int64)  # exp(-104) is 0 in float32
            cut = low.to(tl.int32)
            allowed = vocabulary
            if tl.load(top_ps + slot) < 1:
                need = mass_from(at, cut, top, temperature, vocabulary, SHIFT, BLOCK) * tl.load(top_ps + slot)
                high = ordered(top, SHIFT).to(tl.int64) + 1
                while high - low > 1:  # the largest key whose mass still reaches `need`
                    middle = (low + high) // 2
                    reaches = mass_from(at, middle.to(tl.int32), top, temperature, vocabulary, SHIFT, BLOCK) >= need
                    low = tl.where(reaches, middle, low)
                    high = tl.where(reaches, high, middle)
                cut = low.to(tl.int32)
                above = mass_from(at, cut + 1, top, temperature, vocabulary, SHIFT, BLOCK)
                equal = tl.zeros([BLOCK], tl.float32)  # of several equal logits at the cut, the first that are needed
                for start in range(0, vocabulary, BLOCK):
                    i = start + tl.arange(0, BLOCK)
                    v = tl.load(at + i, mask=i < vocabulary, other=float("-inf")).to(tl.float32)
                    equal = tl.maximum(equal, tl.where(ordered(v, SHIFT) == cut, tl.exp((v - top) / temperature), 0.0))
                allowed = tl.maximum(1, tl.ceil((need - above) / tl.max(equal, 0))).to(tl.int32)
            seed = tl.load(seeds + slot)
            best = tl.full([BLOCK], float("-inf"), tl.float32)
            best_at = tl.zeros([BLOCK], tl.int32)
            equals = 0
            for start in range(0, vocabulary, BLOCK):
                i = start + tl.arange(0, BLOCK)
                v = tl.load(at + i, mask=i < vocabulary, other=float("-inf")).to(tl.float32)
                key = ordered(v, SHIFT)
                tie = (key == cut).to(tl.int32)
                kept = (key > cut) | ((tie > 0) & (equals + tl.cumsum(tie, 0) <= allowed))
                equals += tl.sum(tie, 0)
                noise = -tl.log(-tl.log(tl.maximum(tl.rand(seed, position * vocabulary + i), 1e-10)))
                score = tl.where(kept & (i < vocabulary), (v - top) / temperature + noise, float("-inf"))
                best_at = tl.where(score > best, i, best_at)
                best = tl.maximum(best, score)
            token = tl.min(tl.where(best == tl.max(best, 0), best_at, vocabulary - 1), 0)
    tl.store(tokens + slot, token)
    tl.store(trace + row * trace_width + trace_width - 1, tl.where(sound, token, -1))
    tl.store(positions + slot, position + 1)
    columns = tl.arange(0, COLUMNS)
    inside = columns < size
    e = tl.load(embedding + token.to(tl.int64) * size + columns, mask=inside, other=0.0)
    tl.store(x + row * size + columns, e.to(tl.float32), mask=inside)
