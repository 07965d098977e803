"""Which model is served, and what is said when it cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from olmoe_space.model import loader
from olmoe_space.model.loader import ModelUnavailable, load
from olmoe_space.settings import HUB_MODEL, Settings

from .fakes import save_random_olmoe


def test_a_folder_by_name(random_model_folder: Path) -> None:
    loaded = load(Settings(model=str(random_model_folder)))
    assert loaded.info.name == random_model_folder.name
    assert (loaded.info.num_experts, loaded.info.default_k) == (64, 8)
    assert loaded.info.total_params == sum(p.numel() for p in loaded.model.parameters())
    assert loaded.info.dtype == "float32" and loaded.info.notice == loaded.info.stands_in_for == ""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_dtype_asked_for(random_model_folder: Path, dtype: str) -> None:
    loaded = load(Settings(model=str(random_model_folder), dtype=dtype))
    assert loaded.model.dtype == getattr(torch, dtype) and loaded.info.dtype == dtype


def test_a_name_that_cannot_be_loaded_stops_with_reason_and_remedy() -> None:
    with pytest.raises(ModelUnavailable, match=r"no/such-model could not be loaded: .*OLMOE_MODEL"):
        load(Settings(model="no/such-model"))


def test_the_hub_model_unasked_falls_back_to_the_embedded_one_and_says_why(
        monkeypatch: pytest.MonkeyPatch, random_model_folder: Path) -> None:
    monkeypatch.setattr(loader, "EMBEDDED_MODEL", random_model_folder)
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *a, **kw: self)
    info = load(Settings(on_zero_gpu=True)).info
    assert info.name == random_model_folder.name
    assert HUB_MODEL in info.notice and "served instead" in info.notice


def test_without_a_gpu_the_embedded_model_is_served_and_it_is_said(
        monkeypatch: pytest.MonkeyPatch, random_model_folder: Path) -> None:
    monkeypatch.setattr(loader, "EMBEDDED_MODEL", random_model_folder)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    info = load(Settings()).info
    assert "No GPU" in info.notice and info.stands_in_for == HUB_MODEL


def test_a_base_model_says_that_it_continues_text(tmp_path: Path) -> None:
    folder = save_random_olmoe(tmp_path / "base")
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        path = folder / name
        if name.endswith("jinja"):
            path.unlink(missing_ok=True)
        else:
            config = json.loads(path.read_text())
            config.pop("chat_template", None)
            path.write_text(json.dumps(config))
    info = load(Settings(model=str(folder))).info
    assert not info.has_chat_template and "goes on with your text" in info.notice


def test_a_damaged_shard_is_a_sentence(tmp_path: Path) -> None:
    folder = save_random_olmoe(tmp_path / "damaged")
    (folder / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelUnavailable, match="could not be loaded"):
        load(Settings(model=str(folder)))


def test_another_architecture_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ModelUnavailable, match="'llama' model; this app computes OLMoE"):
        load(Settings(model=str(tmp_path)))
