"""Memory: what a model needs, what is free, and how many chats of what length fit beside the weights.

Asked before loading, so that too little of it is a sentence and not a crash in the middle of a reply.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

STATUS, CLEAR, MEMINFO = Path("/proc/self/status"), Path("/proc/self/clear_refs"), Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
CHUNK = 256  # tokens of a prompt that go through the model at once; between two, Stop is heard and others take turns
LARGE_CHUNK = 2048  # on a GPU that takes no longer for them: an H100 28 ms, nearly all of it launches
LARGE_GPU = 100  # multiprocessors: A100, L40S, H100 and up
MIN_CONTEXT = 512  # tokens; a shorter context holds no conversation
STEP = 256  # tokens by which the context shrinks
RESERVE = 256 * 2**20  # bytes for what libraries, the allocator and the Triton decoder (50 MB at 32 rows) keep


class NotEnoughMemory(ValueError):
    """The weights, or the shortest chat beside them, do not fit; the message has the numbers and the remedy."""


@dataclass(frozen=True)
class Room:
    """slots: chats at once; context: tokens each may hold, prompt and reply together; chunk: tokens of a prompt that go
    through the model at once."""

    slots: int
    context: int
    chunk: int = CHUNK


def chunk_for(device: torch.device | str) -> int:
    """The tokens of a prompt that are best given to this device at once, if there is memory for them."""
    if torch.device(device).type != "cuda":
        return CHUNK
    return LARGE_CHUNK if torch.cuda.get_device_properties(device).multi_processor_count >= LARGE_GPU else CHUNK


def room_for(config: Any, dtype: torch.dtype, in_int8: bool, free: int, slots: int, chunk: int = CHUNK) -> Room:
    """What fits into `free` bytes: `slots` chats of the config's context, else with smaller chunks, else fewer chats,
    else shorter ones.

    Raises NotEnoughMemory if not even one of MIN_CONTEXT tokens fits (or of the whole context, where that is shorter).
    """
    context: int = config.max_position_embeddings
    token = cache_bytes(config, dtype)
    weights = weight_bytes(config, dtype, in_int8)
    if chunk > CHUNK and weights + workspace_bytes(config, dtype, in_int8, chunk) + slots * token * context <= free:
        return Room(slots, context, chunk)
    fixed = weights + workspace_bytes(config, dtype, in_int8)
    fitting = (free - fixed) // (token * context)
    if fitting >= 1:
        return Room(min(slots, fitting), context)
    shorter = (free - fixed) // token // STEP * STEP
    least = min(MIN_CONTEXT, context)
    if shorter >= least:
        return Room(1, shorter)
    needed = fixed + least * token
    remedy = "Choose a smaller model (OLMOE_MODEL), or a device with more memory."
    if not in_int8:
        in_8_bits = (weight_bytes(config, dtype, True) + workspace_bytes(config, dtype, True) + least * token)
        if in_8_bits <= free:
            remedy = f"With OLMOE_WEIGHTS=int8 it needs {_gb(in_8_bits)} and fits. Set that, or choose a smaller model."
    raise NotEnoughMemory(f"It needs {_gb(needed)} of memory ({_gb(weight_bytes(config, dtype, in_int8))} of weights, "
                          f"the rest to work and for a chat of {least:,} tokens); {_gb(free)} are free, so "
                          f"{_gb(needed - free)} are missing. {remedy}")


def parameter_count(config: Any) -> int:
    """Of an `OlmoeForCausalLM` of this config; tied embeddings count once."""
    return weight_bytes(config, torch.uint8, in_int8=False)  # a byte each


def weight_bytes(config: Any, dtype: torch.dtype, in_int8: bool) -> int:
    """Of an `OlmoeForCausalLM` of this config, to the byte."""
    hidden, inner, vocabulary = config.hidden_size, config.intermediate_size, config.vocab_size
    experts, layers, wide = config.num_experts, config.num_hidden_layers, dtype.itemsize
    head_dim = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
    queries, keys = config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim
    matrices = [(queries, hidden), (keys, hidden), (keys, hidden), (hidden, queries)]
    matrices += [(experts * 2 * inner, hidden), (experts * hidden, inner)]
    biases = queries + 2 * keys + hidden if config.attention_bias else 0
    norms = 2 * hidden + hidden + hidden // config.num_attention_heads * config.num_key_value_heads
    layer = sum(_matrix_bytes(*m, wide, in_int8) for m in matrices) + wide * (biases + norms + experts * hidden)
    head = 0 if config.tie_word_embeddings and not in_int8 else _matrix_bytes(vocabulary, hidden, wide, in_int8)
    return layers * layer + head + wide * (vocabulary * hidden + hidden)


def _matrix_bytes(rows: int, columns: int, wide: int, in_int8: bool) -> int:
    return rows * (columns + 4) if in_int8 else rows * columns * wide


def cache_bytes(config: Any, dtype: torch.dtype) -> int:
    """Keys and values of one token, all layers."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * config.num_key_value_heads * head_dim * dtype.itemsize


def workspace_bytes(config: Any, dtype: torch.dtype, in_int8: bool, chunk: int = CHUNK) -> int:
    """The most that a forward holds beside weights and cache: a chunk's tokens at every expert, in and out of their
    products, and the logits; with 8-bit weights also the largest set of matrices that is dequantised at once: the head,
    or the experts gathered for one token, of which the last is there in 8 bits too (`engine.experts`)."""
    hidden, inner, wide = config.hidden_size, config.intermediate_size, dtype.itemsize
    products = chunk * config.num_experts * (2 * hidden + 3 * inner) * wide
    dequantised = 0
    if in_int8:
        gathered = config.num_experts // 4 * hidden * inner * (3 * wide + 1)
        dequantised = max(wide * config.vocab_size * hidden, gathered)
    return products + dequantised + 8 * config.vocab_size + RESERVE


def free_bytes(device: torch.device | str) -> int:
    """Bytes that a process may still take: of the GPU's memory, or on a CPU of the machine's and the container's."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    available = _kibibytes(MEMINFO, "MemAvailable")
    try:
        limit, used = ((CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:  # no container, or one that does not say
        return available
    return available if limit == "max" else min(available, int(limit) - int(used))


def reset_peak(device: torch.device) -> None:
    """Begin anew what `peak_bytes` reports."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        CLEAR.write_text("5")  # Linux: the high-water mark of resident memory starts again


def peak_bytes(device: torch.device) -> int:
    """The most memory in use since `reset_peak`: of the device's tensors, or on a CPU of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _kibibytes(STATUS, "VmHWM")


def resident_bytes() -> int:
    """The memory of this process that is in use now. Linux."""
    return _kibibytes(STATUS, "VmRSS")


def _kibibytes(path: Path, name: str) -> int:
    """A line "name:  123 kB" of a /proc file, in bytes."""
    [line] = [line for line in path.read_text().splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
