"""Run by test_triton.py: every kernel launch of a decode step of the real shape goes through Triton's compiler, for
GPUs that need not be here, with weights of 16 and of 8 bits. Arguments: compute capabilities, such as 75 80 90; prints
registers and spills are left to the GPU's own tools."""

from __future__ import annotations

import sys
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from olmoe_space.engine.cuda.decoder import Decoder
from olmoe_space.model.int8 import to_int8
from olmoe_space.model.structure import weights_of

from .fakes import random_olmoe

TYPES = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32", torch.int8: "*i8",
         torch.int32: "*i32", torch.int64: "*i64"}
SHARED = {75: 64, 80: 163, 86: 99, 90: 227}  # KiB of shared memory that a program may have
Launch = tuple[JITFunction, tuple[Any, ...], dict[str, Any]]


def launches(decoder: Decoder, rows: int) -> list[Launch]:
    """What a step launches, recorded instead of run."""
    found: list[Launch] = []

    def record(self: JITFunction, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        found.append((self, args, options))

    run, JITFunction.run = JITFunction.run, record
    try:
        decoder.launch_all(decoder._batches[rows])
    finally:
        JITFunction.run = run
    return found


def compiled(launch: Launch, capability: int) -> Any:
    kernel, args, options = launch
    names = kernel.arg_names
    values = dict(zip(names, args, strict=False)) | {n: v for n, v in options.items() if n in names}
    signature, constants, attributes = {}, {}, {}
    for i, name in enumerate(names):
        value = values[name]
        if kernel.params[i].is_constexpr or value is None or (isinstance(value, int) and value == 1):
            signature[name], constants[(i,)] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name] = TYPES[value.dtype]
            attributes[(i,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "fp32" if isinstance(value, float) else "i64" if abs(value) >= 2**31 else "i32"
            if isinstance(value, int) and value % 16 == 0:
                attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    settings = {n: v for n, v in options.items() if n.startswith("num_") or n == "launch_pdl"}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=settings)


def main(capabilities: list[int]) -> None:
    for capability in capabilities:
        dtype = torch.float16 if capability < 80 else torch.bfloat16
        model = random_olmoe("olmoe_experts", vocab_size=50304, hidden_size=2048, intermediate_size=1024,
                             num_hidden_layers=1, num_experts=2, num_experts_per_tok=2, num_attention_heads=16)
        check(model.to(dtype), (1, 4), capability)
        check(to_int8(model, "cpu"), (1, 4, 32), capability)


def check(model: Any, batches: tuple[int, ...], capability: int) -> None:
    """Steps of these numbers of rows compile and fit; those of one row load 16 bytes at once, however wide a weight."""
    decoder = Decoder(weights_of(model), slots=2, capacity=512, max_rows=batches[-1])
    if capability >= 90:
        decoder._overlap = {"OVERLAP": True, "launch_pdl": True}
    seen = set()
    for rows in batches:
        for launch in launches(decoder, rows):
            kernel, module = compiled(launch, capability), launch[0].fn.__module__.rsplit(".")[-1]
            assert kernel.metadata.shared <= SHARED[capability] * 1024, (module, launch[0].__name__)
            if module == "one_row":
                weights = [line for line in kernel.asm["ptx"].splitlines() if "evict_first" in line and "ld." in line]
                assert weights and all(".v4.b32" in line for line in weights), weights
            seen.add((rows, f"{module}.{launch[0].__name__}", kernel.metadata.shared))
    for entry in sorted(seen):
        print(f"sm_{capability}", "int8" if decoder.weights.in_int8 else "", *entry, flush=True)


if __name__ == "__main__":
    main([int(c) for c in sys.argv[1:]])
