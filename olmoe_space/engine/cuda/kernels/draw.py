"""A slot's logits -> its next token, drawn on the device, and that token's embedding.

The rule is that of `engine.sampling`: temperature 0 is the first of the largest; else the smallest set of most
probable tokens that reaches top_p. Within it the largest of log p + Gumbel noise wins, which draws from exactly p. The
noise is a counter-based generator's (Philox, Salmon et al. 2011) at (seed, position, token): it knows nothing of other
rows.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .common import last_to_arrive, wait_for_previous


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
def count_equal(at, key, size, SHIFT: tl.constexpr, BLOCK: tl.constexpr):
    counts = tl.zeros([BLOCK], tl.int32)
    for start in range(0, size, BLOCK):
        i = start + tl.arange(0, BLOCK)
        v = tl.load(at + i, mask=i < size, other=float("-inf")).to(tl.float32)
        counts += (ordered(v, SHIFT) == key).to(tl.int32)
    return tl.sum(counts, 0)


@triton.jit
def strongest(at, cut, allowed, top, temperature, seed, position, size, SHIFT: tl.constexpr, BLOCK: tl.constexpr):
    """The token above the cut, or among the first `allowed` at it, whose log p + noise is largest."""
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    best_at = tl.zeros([BLOCK], tl.int32)
    equals = 0
    for start in range(0, size, BLOCK):
        i = start + tl.arange(0, BLOCK)
        v = tl.load(at + i, mask=i < size, other=float("-inf")).to(tl.float32)
        key = ordered(v, SHIFT)
        tie = (key == cut).to(tl.int32)
        kept = (key > cut) | ((tie > 0) & (equals + tl.cumsum(tie, 0) <= allowed))
        equals += tl.sum(tie, 0)
        noise = -tl.log(-tl.log(tl.maximum(tl.rand(seed, position * size + i), 1e-10)))
        score = tl.where(kept & (i < size), (v - top) / temperature + noise, float("-inf"))
        best_at = tl.where(score > best, i, best_at)
        best = tl.maximum(best, score)
    return tl.min(tl.where(best == tl.max(best, 0), best_at, size - 1), 0)


@triton.jit
def draw(logits, slots, forced, temperatures, top_ps, seeds, positions, tokens, chunk_tops, chunk_firsts, arrived,
         logits_at, embedding, x, trace, trace_width, num_slots, vocabulary, size, SHIFT: tl.constexpr,
         BLOCK: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr, COLUMNS: tl.constexpr,
         OVERLAP: tl.constexpr):
    """A token a row of the batch, into tokens[slot] and the trace's last column (there -1 if the logits are not
    numbers), and its embedding into x[row]. A program finds the largest logit of one chunk; the last does the rest.

    logits [2, num_slots, vocabulary]: those after n tokens lie at n % 2, so that a step does not overwrite the logits
    that it draws from. logits_at[row]: where this step's are to go, -1 for no slot.
    forced[slot] >= 0 is taken instead of a draw. positions[slot] grows by the token that is now fed.
    """
    chunk, row = tl.program_id(0), tl.program_id(1)
    wait_for_previous(OVERLAP)
    slot = tl.load(slots + row)
    if slot < 0:
        if chunk == 0:
            tl.store(logits_at + row, -1)
        return
    position = tl.load(positions + slot)
    at = logits + ((position % 2) * num_slots + slot).to(tl.int64) * vocabulary
    here = chunk * CHUNK + tl.arange(0, CHUNK)
    mine = tl.load(at + here, mask=here < vocabulary, other=float("-inf")).to(tl.float32)
    chunk_top = tl.max(mine, 0)
    tl.store(chunk_tops + row * CHUNKS + chunk, chunk_top)
    tl.store(chunk_firsts + row * CHUNKS + chunk, tl.min(tl.where(mine == chunk_top, here, vocabulary - 1), 0))
    if last_to_arrive(arrived + row, tl.num_programs(0) - 1):
        temperature = tl.load(temperatures + slot)
        top_p = tl.load(top_ps + slot)
        c = tl.arange(0, CHUNKS)
        tops = tl.load(chunk_tops + row * CHUNKS + c, mask=c < tl.num_programs(0), other=float("-inf"),
                       cache_modifier=".cg")
        firsts = tl.load(chunk_firsts + row * CHUNKS + c, mask=c < tl.num_programs(0), other=vocabulary - 1,
                         cache_modifier=".cg")
        top = tl.max(tops, 0)
        sound = top > float("-inf")  # not so where no logit is a number
        token = tl.load(forced + slot)
        if token < 0:
            token = tl.min(tl.where(tops == top, firsts, vocabulary - 1), 0)
            if (temperature > 0) & sound:
                temperature = tl.maximum(temperature, 1e-6)
                cut = ordered(tl.full([], -3e38, tl.float32), SHIFT)
                allowed = vocabulary
                if top_p < 1:
                    # Logits below `lowest` have less than 1 - top_p together, even if all others were there: V of them.
                    lowest = top - temperature * (1 + tl.log(vocabulary / (1 - top_p)))
                    low = ordered(tl.maximum(lowest, -3e38), SHIFT).to(tl.int64)
                    high = ordered(top, SHIFT).to(tl.int64) + 1
                    need = mass_from(at, cut, top, temperature, vocabulary, SHIFT, BLOCK) * top_p
                    while high - low > 1:  # the largest key whose mass still reaches `need`
                        middle = (low + high) // 2
                        mass = mass_from(at, middle.to(tl.int32), top, temperature, vocabulary, SHIFT, BLOCK)
                        low = tl.where(mass >= need, middle, low)
                        high = tl.where(mass >= need, high, middle)
                    cut = low.to(tl.int32)
                    above = mass_from(at, cut + 1, top, temperature, vocabulary, SHIFT, BLOCK)
                    equal = mass_from(at, cut, top, temperature, vocabulary, SHIFT, BLOCK) - above
                    count = count_equal(at, cut, vocabulary, SHIFT, BLOCK)
                    # of several equal logits at the cut, the first that are needed
                    allowed = tl.maximum(1, tl.ceil((need - above) / equal * count)).to(tl.int32)
                token = strongest(at, cut, allowed, top, temperature, tl.load(seeds + slot), position, vocabulary,
                                  SHIFT, BLOCK)
        tl.store(tokens + slot, token)
        tl.store(trace + row * trace_width + trace_width - 1, tl.where(sound, token, -1))
        tl.store(positions + slot, position + 1)
        tl.store(logits_at + row, ((position + 1) % 2) * num_slots + slot)
        columns = tl.arange(0, COLUMNS)
        inside = columns < size
        e = tl.load(embedding + token.to(tl.int64) * size + columns, mask=inside, other=0.0)
        tl.store(x + row * size + columns, e.to(tl.float32), mask=inside)
