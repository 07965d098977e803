"""Run by test_triton.py with TRITON_INTERPRET=1: steps of the Triton kernels, on the CPU, against our forward."""

from __future__ import annotations

import torch

from olmoe_space.engine.cache import KeyValueCache
from olmoe_space.engine.cuda.decoder import Decoder, Settings, unsupported
from olmoe_space.engine.forward import forward
from olmoe_space.engine.routing import row_routing
from olmoe_space.engine.sampling import nucleus
from olmoe_space.model.int8 import to_int8
from olmoe_space.model.structure import weights_of
from olmoe_space.request import RoutingPolicy

from .fakes import random_olmoe

WEIGHTINGS = ("raw", "renormalised", "mass_preserving")


@torch.inference_mode()
def check(shape: str, ks: list[int], prompt_lengths: list[int], steps: int, device: str = "cpu",
          in_int8: bool = False, **overrides: int) -> None:
    """Slots of different k, weighting and length, greedy: logits, tokens and traces are those of `forward`.

    Of int8 weights too: `forward` rounds value times scale to float32, the kernels scale a sum; either moves a product
    by 2^-24 of itself, as another order of the sums does, so the tolerance stays.
    """
    model = random_olmoe(shape, **overrides)
    weights = weights_of(to_int8(model, device) if in_int8 else model.to(device))
    decoder = Decoder(weights, slots=len(ks) + 1, capacity=max(prompt_lengths) + steps, max_rows=4)
    slots = list(range(1, len(ks) + 1))  # not the row numbers
    others = []
    for slot, k, length in zip(slots, ks, prompt_lengths, strict=True):
        weighting = WEIGHTINGS[slot % 3]
        routing = row_routing([RoutingPolicy(k, weighting)], weights.num_experts, weights.device)
        ids = torch.randint(0, 256, (1, length), generator=torch.Generator().manual_seed(slot)).to(device)
        logits = forward(weights, ids, decoder.cache, [slot], routing).logits[0, -1]
        decoder.settle(slot, Settings(k, weighting), length, logits)
        own = KeyValueCache(weights, 1, length + steps)
        others.append((own, routing, forward(weights, ids, own, [0], routing).logits[0, -1]))
    for _ in range(steps):
        traced = decoder.step(slots)()
        for row, (own, routing, logits) in enumerate(others):
            token = int(logits.argmax())
            assert int(traced.tokens[row]) == token, (shape, row)
            output = forward(weights, torch.tensor([[token]], device=device), own, [0], routing)
            found, expected = decoder.logits(slots[row]), output.logits[0, -1]
            assert (found - expected).norm() < 1e-4 * expected.norm(), (shape, row)
            k = routing.k_max
            assert torch.equal(traced.experts[row, :, :k].long(), output.selected_experts[0, 0].cpu().long())
            torch.testing.assert_close(traced.weights[row, :, :k], output.routing_weights[0, 0].cpu(), rtol=1e-3,
                                       atol=1e-5)
            assert not traced.weights[row, :, k:].any()
            torch.testing.assert_close(traced.router_logits[row], output.router_logits[0, 0].cpu(), rtol=1e-3,
                                       atol=1e-4)
            others[row] = (own, routing, expected)


@torch.inference_mode()
def check_int8_in_half_precision(dtype: torch.dtype, rows: int, steps: int, device: str = "cpu") -> None:
    """Logits of int8 weights as close to `forward`'s as `dtype` goes: that rounds each dequantised weight, and the
    kernels do not. 1.8 % were seen in bfloat16, with weights of 16 bits as with int8, and 0.1 % in float16; a byte that
    lands in another place moves them by all their size.
    """
    weights = weights_of(to_int8(random_olmoe("olmoe_experts", initializer_range=0.1).to(dtype), device))
    decoder, own = Decoder(weights, rows, 32, 4), KeyValueCache(weights, 1, 32)
    routing = row_routing([RoutingPolicy(64)], weights.num_experts, weights.device)  # all: no cut between them
    ids = torch.arange(9, device=device).view(1, -1) * 37 % 256
    logits = forward(weights, ids, own, [0], routing).logits[0, -1]
    for slot in range(rows):
        forward(weights, ids, decoder.cache, [slot], routing)
        decoder.settle(slot, Settings(64), 9, logits)
    for _ in range(steps):
        token = int(logits.argmax())
        for slot in range(rows):
            decoder.force(slot, token)
        decoder.step(list(range(rows)))()
        logits = forward(weights, torch.tensor([[token]], device=device), own, [0], routing).logits[0, -1]
        for slot in range(rows):
            error = (decoder.logits(slot).float() - logits).norm() / logits.norm()
            assert error < (0.05 if dtype == torch.bfloat16 else 0.005), (dtype, rows, float(error))


def check_drawing(device: str = "cpu", draws: int = 40) -> None:
    """Tokens drawn lie in the nucleus of the CPU's rule, come as often as they should, and obey their seed alone."""
    weights = weights_of(random_olmoe(num_hidden_layers=1).to(device))
    decoder = Decoder(weights, slots=4, capacity=8, max_rows=4)
    vocabulary = weights.lm_head.shape[0]
    logits = torch.randn(vocabulary, generator=torch.Generator().manual_seed(3)) * 2
    logits[20:24] = logits.sort(descending=True).values[6]  # ties, some of which the nucleus may need
    for temperature, top_p in ((0.7, 0.5), (1.3, 0.9), (1.0, 1.0), (0.8, 1e-6)):
        probs, ids = nucleus(torch.softmax(logits / temperature, -1), top_p)
        sets = [set(ids.tolist())]
        if len(ids) < vocabulary and (logits == logits[ids[-1]]).sum() > 1:  # any of the equal ones will do
            sets[0] |= set((logits == logits[ids[-1]]).nonzero().flatten().tolist())
        drawn: list[int] = []
        for seed in range(0, draws, 3):
            for row in range(3):
                decoder.settle(row, Settings(4, "raw", temperature, top_p, seed + row), 0, logits.to(device))
            decoder.settle(3, Settings(4, "raw", temperature, top_p, seed), 0, logits.to(device))
            for batch in decoder._batches.values():
                batch.slots.copy_(torch.tensor([0, 1, 2, 3][:len(batch.slots)]))
            decoder.launch_draw(decoder._batches[4])
            tokens = decoder.slots.token.tolist()
            assert tokens[3] == tokens[0], "the same seed in another row drew another token"
            drawn += tokens[:3]
        assert set(drawn) <= sets[0], (temperature, top_p)
        if top_p < 1e-3:
            assert set(drawn) == {int(logits.argmax())}
        elif draws >= 3000:
            share = drawn.count(int(ids[0])) / len(drawn)
            expected = float(probs[0] / probs.sum())
            assert abs(share - expected) < 4 * (expected * (1 - expected) / len(drawn)) ** 0.5
    decoder.settle(0, Settings(4), 0, torch.full((vocabulary,), float("nan"), device=device))
    decoder.launch_draw(decoder._batches[1])
    assert int(decoder._batches[1].trace[0, -1]) == -1


CASES = (("plain", [4], [5]), ("grouped_query", [3, 16], [4, 66]), ("odd_experts", [11], [3]),
         ("wide_heads", [2, 5, 1], [3, 4, 130]), ("norm_topk_prob", [4, 2], [3, 3]), ("olmoe_experts", [64, 8], [2, 9]),
         ("tied", [4], [70]))
INT8_CASES = (("plain", [4], [5]), ("grouped_query", [3, 16], [4, 66]), ("wide_heads", [2, 5, 1], [3, 4, 130]),
              ("tied", [16], [9]))

if __name__ == "__main__":
    check_drawing(draws=6)
    uneven = random_olmoe(intermediate_size=24)
    assert not unsupported(weights_of(uneven)) and "int8" in unsupported(weights_of(to_int8(uneven, "cpu")))
    for in_int8, cases in ((False, CASES), (True, INT8_CASES)):
        for shape, ks, lengths in cases:
            check(shape, ks, lengths, steps=1, in_int8=in_int8, num_hidden_layers=1)
            print(shape, "in int8" if in_int8 else "", "ok", flush=True)
    for dtype, rows in ((torch.float16, 1), (torch.float16, 3), (torch.bfloat16, 1)):
        check_int8_in_half_precision(dtype, rows, steps=1)  # tl.dot in bfloat16 is beyond Triton 3.7's interpreter
