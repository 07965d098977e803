"""Memory of a device: what is free, and the most that was in use."""

from __future__ import annotations

from pathlib import Path

import torch

STATUS, CLEAR, MEMINFO = Path("/proc/self/status"), Path("/proc/self/clear_refs"), Path("/proc/meminfo")


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


def _kibibytes(path: Path, name: str) -> int:
    """A line "name:  123 kB" of a /proc file, in bytes."""
    [line] = [line for line in path.read_text().splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024
