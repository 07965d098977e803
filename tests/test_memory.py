"""What is needed against what is free: numbers of real models and made-up devices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from olmoe_space.model import loader, memory
from olmoe_space.model.int8 import to_int8
from olmoe_space.model.loader import ModelUnavailable, load
from olmoe_space.model.memory import (
    NotEnoughMemory,
    Room,
    cache_bytes,
    free_bytes,
    parameter_count,
    room_for,
    weight_bytes,
    workspace_bytes,
)
from olmoe_space.model.random_weights import shape_of
from olmoe_space.settings import Settings

from .fakes import SHAPES, random_olmoe

REAL, HALF = shape_of(), torch.bfloat16
GB = 10**9


def size_of(model: Any) -> int:
    return sum(p.nbytes for p in model.parameters()) + sum(
        b.nbytes for name, b in model.named_buffers() if "scale" in name)


@pytest.mark.parametrize("shape", SHAPES)
def test_weights_are_counted_to_the_byte(shape: str) -> None:
    model = random_olmoe(shape)
    assert weight_bytes(model.config, torch.float32, False) == size_of(model)
    assert parameter_count(model.config) == sum(p.numel() for p in model.parameters())
    assert weight_bytes(model.config, torch.float32, True) == size_of(to_int8(model, "cpu"))


def test_the_real_model_in_8_bits_with_a_whole_context_stays_under_8_5_gb() -> None:
    needed = weight_bytes(REAL, HALF, True) + workspace_bytes(REAL, HALF, True) + 4096 * cache_bytes(REAL, HALF)
    assert needed < 8.5 * GB < weight_bytes(REAL, HALF, False)
    assert parameter_count(REAL) == 6_919_161_856 and cache_bytes(REAL, HALF) == 128 * 1024


def test_slots_shrink_first_then_the_context() -> None:
    assert room_for(REAL, HALF, False, 80 * GB, 8) == Room(8, 4096)
    fixed = weight_bytes(REAL, HALF, False) + workspace_bytes(REAL, HALF, False)
    chat = 4096 * cache_bytes(REAL, HALF)
    assert room_for(REAL, HALF, False, fixed + 3 * chat, 8) == Room(3, 4096)
    assert room_for(REAL, HALF, False, fixed + chat - 1, 8) == Room(1, 4096 - 256)
    assert room_for(REAL, HALF, False, fixed + chat // 8, 8) == Room(1, 512)


def test_what_is_missing_is_told_with_the_remedy() -> None:
    with pytest.raises(NotEnoughMemory, match=r"13\.8 GB of weights.* 11\.6 GB are free.*missing\. With OLMOE_WEIGHTS"):
        room_for(REAL, HALF, False, 11_600_000_000, 8)
    with pytest.raises(NotEnoughMemory, match="smaller model") as refusal:
        room_for(REAL, HALF, False, 4 * GB, 8)
    assert "OLMOE_WEIGHTS" not in str(refusal.value)
    with pytest.raises(NotEnoughMemory, match="smaller model"):
        room_for(REAL, HALF, True, 6 * GB, 8)


def test_free_memory_of_this_machine() -> None:
    assert 2**20 < free_bytes("cpu") < 2**50


def test_a_container_may_allow_less_than_the_machine_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       64000000 kB\nMemAvailable:   50000000 kB\n")
    monkeypatch.setattr(memory, "MEMINFO", meminfo)
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert free_bytes("cpu") == 50_000_000 * 1024
    (tmp_path / "memory.current").write_text("1000000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes("cpu") == 50_000_000 * 1024
    (tmp_path / "memory.max").write_text("16000000\n")
    assert free_bytes("cpu") == 15_000_000


def test_loading_asks_first(random_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = random_olmoe("olmoe_experts").config
    fixed = weight_bytes(config, torch.float32, False) + workspace_bytes(config, torch.float32, False)
    chat = 512 * cache_bytes(config, torch.float32)
    settings = Settings(model=str(random_model_folder))
    monkeypatch.setattr(loader, "free_bytes", lambda device: fixed + 2 * chat)
    loaded = load(settings)
    assert loaded.room == Room(2, 512) and "2 replies at a time" in loaded.info.notice
    monkeypatch.setattr(loader, "free_bytes", lambda device: fixed)
    with pytest.raises(ModelUnavailable, match="does not fit. It needs .* are missing"):
        load(settings)
