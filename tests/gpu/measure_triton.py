"""Speed of the Triton kernels on the GPU at hand, with random weights of OLMoE-1B-7B's shape in bfloat16 and in int8.

`python -m tests.gpu.measure_triton [memory8] [int8] [agreement] [kernels] [decode] [batch] [variants] [stock]`: the
parts named, or all. `int8` decodes with both kinds of weights in turns; a part with an 8 (`kernels8`) is that part with
int8 weights. A kernel is timed as one graph over all layers, so that no cache flatters it; a decode step as it is
served.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from transformers import CompileConfig, GenerationConfig, OlmoeConfig, OlmoeForCausalLM

from olmoe_space.engine.cache import KeyValueCache
from olmoe_space.engine.cuda.decoder import Decoder, Settings
from olmoe_space.engine.cuda.lanes import TritonKernels
from olmoe_space.engine.cuda.tiles import Tile, Tiles
from olmoe_space.engine.forward import forward
from olmoe_space.engine.kernels import LaneRequest
from olmoe_space.engine.routing import row_routing
from olmoe_space.lab.limits import bytes_per_step
from olmoe_space.lab.stock import stock_at
from olmoe_space.model.memory import Room
from olmoe_space.model.random_weights import random_model, shape_of
from olmoe_space.model.structure import OlmoeWeights, weights_of
from olmoe_space.request import RoutingPolicy, SamplingParams

KS = (1, 4, 8, 16, 32, 64)
PROMPT = 130
PARTS = ("qkv", "attention", "output", "router", "gate_up", "down", "head", "draw")


def real_shape() -> Any:
    config = OlmoeConfig(vocab_size=50304, hidden_size=2048, intermediate_size=1024, num_hidden_layers=16,
                         num_attention_heads=16, num_key_value_heads=16, num_experts=64, num_experts_per_tok=8,
                         max_position_embeddings=4096, eos_token_id=50279, pad_token_id=1)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = OlmoeForCausalLM(config).eval().requires_grad_(False)
    torch.set_default_dtype(torch.float32)
    model.generation_config = GenerationConfig(eos_token_id=None, pad_token_id=1)
    return model


def graph_us(run: Callable[[], object], repeats: int = 20) -> float:
    """Microseconds of one replay, the median."""
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    times = []
    for i in range(repeats + 3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        if i >= 3:
            times.append(start.elapsed_time(end) * 1000)
    return statistics.median(times)


def copy_bandwidth() -> float:
    """Bytes a second of a copy within the GPU, read and written."""
    a = torch.randn(2**30, device="cuda")
    b = torch.empty_like(a)
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(20):
        b.copy_(a)
    torch.cuda.synchronize()
    return 20 * 2 * 4 * 2**30 / (time.perf_counter() - began)


def step_bytes(w: OlmoeWeights, experts_a_layer: float, held: int) -> float:
    return bytes_per_step(w, experts_a_layer * len(w.layers), held)


@torch.inference_mode()
def fill(decoder: Decoder, slot: int, k: int, held: int = PROMPT, seed: int = 0, temperature: float = 0.0) -> None:
    w = decoder.weights
    ids = torch.randint(0, 50000, (1, held), device="cuda", generator=torch.Generator("cuda").manual_seed(seed))
    decoder.cache.lengths[slot] = 0
    logits = forward(w, ids, decoder.cache, [slot], row_routing([RoutingPolicy(k)], w.num_experts, w.device)).logits
    decoder.settle(slot, Settings(k, temperature=temperature, top_p=0.95, seed=seed), held, logits[0, -1])


def launcher(decoder: Decoder, rows: int, part: str) -> Callable[[], None]:
    batch, layers = decoder._batches[rows], decoder.weights.layers
    launch = getattr(decoder, f"launch_{part}")
    if part in ("head", "draw"):
        return lambda: launch(batch)
    if part in ("attention", "router"):
        return lambda: [launch(batch, layer, i) for i, layer in enumerate(layers)] and None
    return lambda: [launch(batch, layer) for layer in layers] and None


def set_experts(decoder: Decoder, rows: int, experts: int) -> None:
    """As if the batch touched the first `experts` of every layer."""
    batch = decoder._batches[rows]
    batch.count.fill_(experts)
    batch.touched.copy_(torch.randperm(64, device="cuda").to(torch.int32).repeat(2))
    batch.weight_of.fill_(0.1)


def kernels(model: Any) -> None:
    decoder = Decoder(weights_of(model), 32, 1024)
    for rows in (1, 8, 32):
        for slot in range(rows):
            fill(decoder, slot, 8, 256)
        decoder.step(list(range(rows)))
        times = {}
        for part in PARTS:
            if part in ("gate_up", "down"):
                for n in (1, 8, 64) if rows == 1 else (32, 64):
                    set_experts(decoder, rows, n)
                    times[f"{part} {n}"] = graph_us(launcher(decoder, rows, part)) / 16
            else:
                times[part] = graph_us(launcher(decoder, rows, part)) / (1 if part in ("head", "draw") else 16)
        print(f"rows {rows}, us a layer (head, draw: a step):", {p: round(t, 1) for p, t in times.items()}, flush=True)


ONE = {
    "qkv": [Tile(2, per_sm=8), Tile(1, per_sm=8), Tile(1, per_sm=12), Tile(4, per_sm=4)],
    "output": [Tile(4), Tile(4, warps=2), Tile(8, warps=4)],
    "gate_up": [Tile(1, per_sm=8), Tile(1, per_sm=6), Tile(1, per_sm=7), Tile(1, per_sm=10), Tile(2, per_sm=8),
                Tile(2, warps=8, per_sm=4), Tile(4, warps=8, per_sm=2), Tile(1, warps=2, per_sm=16)],
    "down": [Tile(4), Tile(8), Tile(4, warps=2), Tile(2), Tile(4, warps=8)],
}
MANY = {"gate_up": [Tile(64, 128, 4, 2, 3), Tile(64, 256, 8, 1, 3)], "down": [Tile(32, 128, 4, stages=6)]}
ONE_INT8 = {
    "qkv": [Tile(4, per_sm=8), Tile(2, per_sm=8), Tile(4, per_sm=6), Tile(4, per_sm=4)],
    "output": [Tile(8), Tile(4), Tile(8, warps=2), Tile(8, warps=8)],
    "gate_up": [Tile(4, warps=8, per_sm=4), Tile(2, per_sm=8), Tile(4, per_sm=4), Tile(1, per_sm=8),
                Tile(2, warps=2, per_sm=16), Tile(4, per_sm=6), Tile(2, per_sm=12)],
    "down": [Tile(8), Tile(4), Tile(8, warps=8), Tile(16, warps=8)],
    "head": [Tile(8, per_sm=4), Tile(4, per_sm=4), Tile(4, per_sm=8), Tile(8, warps=8, per_sm=4)],
}
MANY_INT8 = {
    "qkv": [Tile(32, 256, stages=4), Tile(32, 128, stages=4), Tile(16, 512, stages=3)],
    "gate_up": [Tile(64, 128, per_sm=2, stages=5), Tile(64, 128, per_sm=2, stages=3), Tile(64, 256, 8, 2, 3),
                Tile(32, 256, per_sm=3, stages=3)],
    "down": [Tile(32, 128, stages=6), Tile(32, 128, stages=8), Tile(64, 128, stages=6)],
    "head": [Tile(64, 256, stages=4), Tile(64, 128, stages=4), Tile(64, 128, stages=6)],
}


def variants(model: Any) -> None:
    weights = weights_of(model)
    decoder = Decoder(weights, 1, 1024, 1)
    fill(decoder, 0, 8, 256)
    for decoder.router_rows in (1, 2, 4, 8):
        decoder.capture(1)
        decoder.step([0])()
        print(f"router, {decoder.router_rows} experts a program: {graph_us(launcher(decoder, 1, 'router')) / 16:.1f}")
    for rows, choices in ((1, ONE_INT8 if weights.in_int8 else ONE), (16, MANY_INT8 if weights.in_int8 else MANY)):
        decoder = Decoder(weights, rows, 1024, rows)
        base = decoder._tiles[rows > 1]
        decoder._batches[rows].slots.copy_(torch.arange(rows))
        decoder._batches[rows].logits_at.copy_(torch.arange(rows))
        for part in choices:
            counts = ((1, 8, 64) if rows == 1 else (16, 64)) if part in ("gate_up", "down") else (0,)
            for tile in choices[part]:
                tiles: Tiles = replace(base, **{part: tile})
                decoder._tiles = (tiles, tiles)
                found = []
                for n in counts:
                    set_experts(decoder, rows, n)
                    try:
                        time_us = graph_us(launcher(decoder, rows, part), 8)
                        found.append(round(time_us / (1 if part == "head" else 16), 1))
                    except Exception as error:  # a shape that does not fit
                        found.append(type(error).__name__)
                        torch.cuda.synchronize()
                print(f"rows {rows} {part} {tile.rows, tile.columns, tile.warps, tile.per_sm, tile.stages}:", *found,
                      flush=True)


def decode(model: Any, bandwidth: float) -> None:
    decoder = Decoder(weights_of(model), 2, 1024, 2)
    began = time.perf_counter()
    decoder.capture(1)
    print(f"capture with a filled cache or not: {time.perf_counter() - began:.1f} s")
    steps = 126
    for k in (1, 8, 64):
        overlap, decoder._overlap = decoder._overlap, {"OVERLAP": False}
        decoder.capture(1)
        decoder._overlap = overlap
        fill(decoder, 0, k)
        decoder.step([0])
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(steps):
            decoder.run([0])
        torch.cuda.synchronize()
        print(f"k={k} without overlap of launches: {steps / (time.perf_counter() - began):.0f} tok/s", flush=True)
    decoder.capture(1)
    for k in KS:
        fill(decoder, 0, k)
        decoder.step([0])
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(steps):
            decoder.run([0])
        torch.cuda.synchronize()
        bare = (time.perf_counter() - began) / steps
        limit = bandwidth / step_bytes(decoder.weights, k, PROMPT + steps // 2)
        fill(decoder, 0, k)
        began = time.perf_counter()
        waiting = decoder.step([0])
        for _ in range(steps - 1):
            coming = decoder.step([0])
            waiting()
            waiting = coming
        waiting()
        told = (time.perf_counter() - began) / steps
        fill(decoder, 0, k, temperature=0.8)
        decoder.run([0])
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(steps):
            decoder.run([0])
        torch.cuda.synchronize()
        drawn = (time.perf_counter() - began) / steps
        decoder.capture(2)
        fill(decoder, 0, k)
        batch = decoder._batches[2]
        batch.slots.copy_(torch.tensor([0, -1]))
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(60):
            decoder._graphs[2].replay()
        torch.cuda.synchronize()
        tile = (time.perf_counter() - began) / 60
        decoder._seated.clear()
        print(f"k={k}: {1 / bare:.0f} tok/s, {100 / bare / limit:.0f} % of {limit:.0f}; traced, one step ahead "
              f"{1 / told:.0f}; drawn at 0.8 {1 / drawn:.0f}; by tiles {1 / tile:.0f}", flush=True)


def batch(model: Any, bandwidth: float) -> None:
    decoder = Decoder(weights_of(model), 32, 512)
    for rows in (2, 4, 8, 16, 32):
        for name, ks in (("mixed", [(4, 8, 16, 32)[i % 4] for i in range(rows)]), ("k=8", [8] * rows)):
            slots = list(range(rows))
            for slot in slots:
                fill(decoder, slot, ks[slot], seed=slot)
            decoder.step(slots)
            torch.cuda.synchronize()
            began = time.perf_counter()
            touched = []
            for _ in range(30):
                traced = decoder.step(slots)()
                touched.append(sum(len({int(e) for row, k in enumerate(ks) for e in traced.experts[row, layer, :k]})
                                   for layer in (0, 5, 10, 15)) / 4)
            for slot in slots:
                fill(decoder, slot, ks[slot], seed=slot)
            decoder.step(slots)
            torch.cuda.synchronize()
            began = time.perf_counter()
            for _ in range(30):
                decoder.run(slots)
            torch.cuda.synchronize()
            seconds = (time.perf_counter() - began) / 30
            experts = statistics.mean(touched)
            limit = bandwidth / step_bytes(decoder.weights, experts, (PROMPT + 16) * rows)
            print(f"{rows} rows {name}: {rows / seconds:.0f} tok/s, step {seconds * 1000:.2f} ms, {experts:.1f} experts"
                  f" touched, {100 / seconds / limit:.0f} % of the limit", flush=True)


def rate(decoder: Decoder, k: int, rows: int, steps: int = 100) -> float:
    """Tokens a second of all rows together, greedy, on contexts of PROMPT tokens and more."""
    slots = list(range(rows))
    for slot in slots:
        fill(decoder, slot, k, seed=slot)
    decoder.run(slots)
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(steps):
        decoder.run(slots)
    torch.cuda.synchronize()
    return rows * steps / (time.perf_counter() - began)


def int8(model: Any, eight: Any, bandwidth: float) -> None:
    """Both kinds of weights in turns, medians of five: speed against each other and each against its own limit."""
    both = [Decoder(weights_of(m), 8, 1024, 8) for m in (model, eight)]
    for rows, k in [(1, k) for k in KS] + [(8, 8)]:
        turns = [[rate(decoder, k, rows) for decoder in both] for _ in range(5)]
        wide, narrow = (statistics.median(rates) for rates in zip(*turns, strict=True))
        line = f"rows {rows}, k={k}: bfloat16 {wide:.0f} tok/s, int8 {narrow:.0f}, ratio {narrow / wide:.2f}"
        if rows == 1:
            limits = [bandwidth / step_bytes(decoder.weights, k, PROMPT + 50) for decoder in both]
            line += (f"; of the limit {100 * wide / limits[0]:.0f} % of {limits[0]:.0f} and "
                     f"{100 * narrow / limits[1]:.0f} % of {limits[1]:.0f}")
        print(line + ("; target: a ratio of at least 1.3" if (rows, k) == (1, 8) else ""), flush=True)


def memory8() -> None:
    """What int8 weights take in all, from making them to a chat of the whole context; before any other model."""
    def gb() -> str:
        return f"{torch.cuda.max_memory_allocated() / 1e9:.2f} GB"

    config = shape_of()
    model = random_model(config, torch.bfloat16, "cuda", in_int8=True)
    made = gb()
    torch.cuda.reset_peak_memory_stats()
    kernels = TritonKernels(model, Room(1, config.max_position_embeddings))
    request = LaneRequest(config.max_position_embeddings, RoutingPolicy(8), SamplingParams(temperature=0), 0)
    with kernels.lanes([request]) as [lane]:
        for _ in range(config.max_position_embeddings // 256 - 1):
            kernels.prefill(lane, list(range(1000, 1256)))
        for _ in range(64):
            kernels.step([lane], frozenset())
    free, total = torch.cuda.mem_get_info()
    print(f"int8, one chat of {config.max_position_embeddings} tokens: peak {gb()} of tensors (target: under 8.5), "
          f"{made} while the weights are made; the device holds {(total - free) / 1e9:.2f} GB with what PyTorch keeps "
          f"and CUDA itself", flush=True)


@torch.inference_mode()
def agreement(model: Any) -> None:
    """Teacher-forced on our forward's tokens: distance of the logits, and first greedy difference with its margin."""
    w = weights_of(model)
    decoder = Decoder(w, 3, 512, 4)
    for k in (1, 2, 4, 8, 16, 32, 64):
        routing = row_routing([RoutingPolicy(k)], w.num_experts, w.device)
        ids = torch.randint(0, 50000, (1, PROMPT), device="cuda", generator=torch.Generator("cuda").manual_seed(0))
        own = KeyValueCache(w, 1, 512)
        logits = forward(w, ids, own, [0], routing).logits[0, -1]
        for slot in range(3):
            fill(decoder, slot, k)
        errors, different, gaps = [], 0, []
        for _ in range(64):
            token = int(logits.argmax())
            ours = decoder.logits(0).float()
            if int(ours.argmax()) != token:
                different += 1
                gaps.append(float(logits.max() - logits[int(ours.argmax())]))
            for slot in range(3):
                decoder.force(slot, token)
            decoder.step([0])
            decoder.step([1, 2])
            logits = forward(w, torch.tensor([[token]], device="cuda"), own, [0], routing).logits[0, -1]
            errors.append([float((decoder.logits(s).float() - logits).norm() / logits.norm()) for s in (0, 1)])
        same = torch.equal(decoder.logits(1), decoder.logits(2))
        print(f"k={k}: relative logit distance, median one row {statistics.median(e[0] for e in errors):.4f}, tiles "
              f"{statistics.median(e[1] for e in errors):.4f}, worst {max(e[0] for e in errors):.4f}; {different} of "
              f"64 greedy tokens differ, by logits {[round(g, 4) for g in gaps]}; twins equal: {same}", flush=True)


def stock(model: Any) -> None:
    ids = torch.randint(0, 50000, (1, PROMPT), device="cuda")

    def run(tokens: int, **options: Any) -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens,
                       do_sample=False, cache_implementation="static", **options)
        torch.cuda.synchronize()
        return time.perf_counter() - began

    for k in (8,):
        with stock_at(model, k):
            model.set_experts_implementation("batched_mm")
            options = {"compile_config": CompileConfig(mode="max-autotune")}
            cold = run(128, **options)
            run(128, **options)
            run(2, **options)
            rate = 126 / (run(128, **options) - run(2, **options))
            print(f"stock static max-autotune batched_mm k={k}: {rate:.0f} tok/s, cold {cold:.0f} s", flush=True)


def main(parts: list[str]) -> None:
    bandwidth = copy_bandwidth()
    print(torch.cuda.get_device_name(), torch.__version__, f"copy {bandwidth / 1e12:.2f} TB/s", flush=True)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    part("memory8", memory8, parts)
    model = real_shape()
    part("stock", lambda: stock(model), parts)
    eight = random_model(shape_of(), torch.bfloat16, "cuda", in_int8=True)
    part("int8", lambda: int8(model, eight, bandwidth), parts)
    for bits, one in (("", model), ("8", eight)):
        part(f"agreement{bits}", partial(agreement, one), parts)
        part(f"kernels{bits}", partial(kernels, one), parts)
        part(f"decode{bits}", partial(decode, one, bandwidth), parts)
        part(f"batch{bits}", partial(batch, one, bandwidth), parts)
        part(f"variants{bits}", partial(variants, one), parts)


def part(name: str, run: Callable[[], object], parts: list[str]) -> None:
    """Run it if it was named, or none was; what fails is told and ends no other part."""
    if parts and name not in parts:
        return
    began = time.perf_counter()
    try:
        run()
    except Exception:
        traceback.print_exc()
    print(f"[{name} {time.perf_counter() - began:.0f} s]", flush=True)
    gc.collect()
    torch.cuda.empty_cache()


if __name__ == "__main__":
    main(sys.argv[1:])
