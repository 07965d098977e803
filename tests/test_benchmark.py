"""The benchmark from a shell: what it counts, what it measures on a small model, what it keeps when it is stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import OlmoeForCausalLM

from olmoe_space.__main__ import main
from olmoe_space.conversation import encode
from olmoe_space.engine.engine import Engine
from olmoe_space.events import Routing, Token
from olmoe_space.lab import benchmark as lab_benchmark
from olmoe_space.lab.agreement import Agreement, agreement, step_at
from olmoe_space.lab.benchmark import _Run, _together, benchmark
from olmoe_space.lab.benchmark_records import Chats, Decode, Plan, Prefill, Tracing
from olmoe_space.lab.benchmark_report import as_json, as_table, curve
from olmoe_space.lab.limits import bytes_per_step, bytes_per_token, cache_bytes_per_token, copy_bandwidth
from olmoe_space.lab.stock import RECIPES, decode_seconds, stock_at
from olmoe_space.model.int8 import to_int8
from olmoe_space.model.loader import load
from olmoe_space.model.memory import parameter_count
from olmoe_space.model.random_weights import random_model, shape_of
from olmoe_space.model.structure import weights_of
from olmoe_space.plots import speed_curves, to_svg
from olmoe_space.request import GenerationRequest, Message, RoutingPolicy, SamplingParams
from olmoe_space.settings import EMBEDDED_MODEL, Settings

from .fakes import byte_tokenizer, random_olmoe

# From the published shape by hand: MB to decode a token of OLMoE-1B-7B in 16 bits behind 512 others.
MEGABYTES = {1: 1016, 4: 1620, 8: 2425, 16: 4036, 32: 7257, 64: 13699}


@pytest.fixture(scope="module")
def real_shape() -> Any:
    """OLMoE-1B-7B without memory: all of its shapes, none of its numbers."""
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            return OlmoeForCausalLM(shape_of("allenai/OLMoE-1B-7B-0924"))
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("k", MEGABYTES)
def test_bytes_of_the_real_model(real_shape: Any, k: int) -> None:
    assert bytes_per_token(weights_of(real_shape), k, 512) == pytest.approx(1e6 * MEGABYTES[k], abs=1e6)


def test_a_batch_reads_an_expert_once_and_each_rows_cache() -> None:
    weights = weights_of(random_olmoe())
    expert = 3 * 64 * 32 * 4
    assert bytes_per_step(weights, 10, 0) - bytes_per_step(weights, 4, 0) == 6 * expert
    assert bytes_per_step(weights, 4, 100) - bytes_per_step(weights, 4, 0) == 100 * cache_bytes_per_token(weights)
    assert cache_bytes_per_token(weights) == 2 * 3 * 64 * 4


def test_8_bits_are_fewer_bytes() -> None:
    wide, narrow = random_olmoe(), to_int8(random_olmoe(), "cpu")
    assert bytes_per_token(weights_of(narrow), 8, 0) < 0.35 * bytes_per_token(weights_of(wide), 8, 0)


def test_copying_has_a_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("olmoe_space.lab.limits.COPY_BYTES", {"cpu": 2**22})
    assert 1e7 < copy_bandwidth("cpu") < 1e13


def test_random_weights_have_the_shape_and_are_the_same_again() -> None:
    config = random_olmoe("grouped_query").config
    first, again, other = (random_model(config, torch.bfloat16, "cpu", seed=s) for s in (1, 1, 2))
    assert sum(p.numel() for p in first.parameters()) == parameter_count(config)
    assert {p.dtype for p in first.parameters()} == {torch.bfloat16}
    assert torch.equal(first.lm_head.weight, again.lm_head.weight)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)
    assert weights_of(random_model(config, torch.float32, "cpu", in_int8=True)).in_int8


def test_a_shape_that_is_not_known_is_refused_with_those_that_are() -> None:
    assert shape_of("allenai/OLMoE-1B-7B-0125-Instruct").intermediate_size == 1024
    with pytest.raises(ValueError, match="no/such.*allenai/OLMoE-1B-7B-"):
        shape_of("no/such")


def test_speed_is_taken_while_all_rows_decode() -> None:
    arrivals = [(0, 1.0), (0, 2.0), (1, 3.0), (0, 4.0), (1, 5.0), (0, 6.0), (1, 7.0), (1, 9.0)]
    assert _together(arrivals, 2) == (6.0 - 3.0) / 3  # tokens at 4, 5 and 6
    with pytest.raises(ValueError, match="never decoded together"):
        _together([(0, 1.0), (0, 2.0), (1, 3.0), (1, 4.0)], 2)


def test_experts_that_rows_share_are_touched_once() -> None:
    def token(*experts: list[int]) -> Token:
        chosen = np.array([experts], np.uint8)  # [1, L, K]
        return Token(5, "", Routing(np.zeros((1, 2, 8), np.float32), chosen, np.zeros_like(chosen, np.float32)))

    step = [(0, token([1, 2], [3, 4])), (1, token([2, 5], [3, 4]))]
    assert _Run(iter(step * 3), 2).experts_touched == 3 + 2


@pytest.mark.parametrize("name", ["generate"])
def test_stock_is_timed_at_the_k_asked_for_and_left_as_it_was(name: str) -> None:
    model, ids = random_olmoe(), torch.arange(12).view(2, 6)
    seen: list[int] = []
    gate = model.model.layers[0].mlp.gate
    gate.register_forward_pre_hook(lambda *_: seen.append(gate.top_k))
    first, step = decode_seconds(model, ids, 7, 4, RECIPES[name])
    assert first > 0 and step > 0 and set(seen) == {7} and gate.top_k == 4
    with pytest.raises(RuntimeError), stock_at(model, 3):
        raise RuntimeError
    assert gate.top_k == 4


@pytest.fixture(scope="module")
def records(random_model_folder: Path) -> list[Any]:
    loaded = load(Settings(model=str(random_model_folder)))
    plan = Plan((1, 16), (1, 3), (40, 10_000), 2, 4, 1, (RECIPES["generate"],), agreement=20)
    engine = Engine(loaded.model, loaded.tokenizer, backend="torch")
    told: list[str] = []
    found = list(benchmark(engine, loaded.info, plan, 1e9, told.append))
    assert any("warm-up" in line for line in told) and any("repeat 1 of 1" in line for line in told)
    return found


def test_every_measurement_of_the_plan_is_made(records: list[Any]) -> None:
    decodes = [r for r in records if isinstance(r, Decode)]
    assert [(r.batch, r.k) for r in decodes] == [(1, 1), (1, 16), (3, 1), (3, 16), (3, None)]
    for r in decodes:
        assert r.tokens_per_s > 0 and r.peak_bytes > 0 and 0 < r.share_of_limit == pytest.approx(
            r.tokens_per_s * r.bytes_per_step / (r.batch * 1e9))
        assert set(r.stock_tokens_per_s) == (set() if r.k is None else {"generate"})
    assert [r.experts_touched for r in decodes[:2]] == [3 * 1, 3 * 16]
    assert 3 * 16 <= decodes[4].experts_touched <= 3 * (4 + 8 + 16)  # three rows, sharing some
    [prefill] = [r for r in records if isinstance(r, Prefill)]  # the other does not fit the context
    assert abs(prefill.tokens - 40) <= 3 and 0 < prefill.seconds < prefill.first_token_s
    assert [type(r) for r in records[-6:]] == [Tracing, Chats, *4 * [Agreement]]
    assert [(r.batch, r.k, r.tokens, r.different) for r in records[-4:]] == [
        (1, 1, 20, 0), (1, 16, 20, 0), (3, 1, 60, 0), (3, 16, 60, 0)]  # in float32 on a CPU: every token


def test_another_k_than_the_one_asked_for_is_seen_as_different_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(random_olmoe(), byte_tokenizer(), backend="torch")
    request = GenerationRequest((Message("user", "One two"),), SamplingParams(0, 1, 20, 0), RoutingPolicy(1))
    prompt = encode(engine.tokenizer, request.messages, engine.context_length, 20).token_ids
    assert agreement(engine, [request], [prompt]).different == 0
    monkeypatch.setattr("olmoe_space.lab.agreement.stock_at", lambda model, k: stock_at(model, 16))
    found = agreement(engine, [request], [prompt])
    assert found.different > 0 and found.ties < found.different and len(found.margin_steps) == found.different


def test_a_step_is_the_distance_to_the_next_value() -> None:
    values = torch.tensor([1.0, 1.5, 3.9, -4.0, 0.3])
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        held = values.to(dtype)
        bits = {4: torch.int32, 2: torch.int16}[dtype.itemsize]
        away = (held.view(bits) + 1).view(dtype)  # one more in the bits: the next value away from zero
        assert torch.equal(step_at(held), (away.double() - held.double()).abs().float())


def test_they_are_told_in_a_table_a_json_line_and_a_picture(records: list[Any]) -> None:
    table = as_table(records)
    assert "stock generate" in table and " mixed " in table and "2 chats at once" in table
    assert "greedy at batch 3, k=16: 60 of 60 tokens are stock's" in table
    kept = json.loads(json.dumps(as_json({"model": "m"}, records)))
    assert len(kept["agreement"]) == 4 and kept["agreement"][0]["ties"] == 0
    assert len(kept["decode"]) == 5 and kept["decode"][0]["share_of_limit"] > 0 and kept["tracing"][0]["cost"] < 1
    ks, lines = curve(records)
    assert ks == [1, 16] and list(lines) == ["here", "limit", "stock generate"]
    svg = to_svg(speed_curves(ks, lines, model="m", hardware="a CPU"))
    assert b"stock generate" in svg and b"at copy speed" in svg
    with pytest.raises(ValueError, match="no decode speed"):
        curve([r for r in records if not isinstance(r, Decode)])


def test_a_stock_recipe_without_room_is_told_and_ends_nothing(monkeypatch: pytest.MonkeyPatch,
                                                             random_model_folder: Path) -> None:
    def no_room(*_: Any) -> None:
        raise torch.OutOfMemoryError("64 GiB")

    monkeypatch.setattr(lab_benchmark, "decode_seconds", no_room)
    loaded = load(Settings(model=str(random_model_folder)))
    plan = Plan((4,), (1,), (), 1, 4, 1, (RECIPES["generate"],))
    found = list(benchmark(Engine(loaded.model, loaded.tokenizer, backend="torch"), loaded.info, plan, 1e9, print))
    assert found[0].stock_tokens_per_s == {"generate": 0} and isinstance(found[1], Tracing)
    assert "out of memory" in as_table(found) and json.dumps(as_json({}, found))
    assert b"here" in to_svg(speed_curves(*curve(found), model="m", hardware="a GPU"))


def shell(folder: Path, *arguments: str) -> int:
    return main(["--model", str(folder), "benchmark", "--k", "4", "--batch", "1", "--prefill", "0", "--chats", "1",
                 "--agreement", "0", "--new-tokens", "4", "--repeats", "1", *arguments])


@pytest.fixture
def quick_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("olmoe_space.lab.limits.COPY_BYTES", {"cpu": 2**22})


def test_from_a_shell_with_8_bits_beside(random_model_folder: Path, tmp_path: Path, quick_copy: None,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    plot = tmp_path / "speed.png"
    assert shell(random_model_folder, "--stock", "none", "--int8", "--plot", str(plot)) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [d["weights"] for d in found["decode"]] == ["float32", "int8 weights, float32"]
    assert found["decode"][1]["bytes_per_step"] < found["decode"][0]["bytes_per_step"]
    assert found["bandwidth"] > 0 and found["ready_s"] > 0 and not found["stopped_early"]
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_random_weights_of_a_folders_shape(random_model_folder: Path, quick_copy: None,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    def run(folder: Path) -> int:
        return main(["benchmark", "--random-weights", str(folder), "--k", "4", "--batch", "1", "--prefill", "0",
                     "--chats", "1", "--agreement", "5", "--new-tokens", "4", "--repeats", "1", "--stock", "none"])

    assert run(random_model_folder) == 2
    assert "has 264 tokens, fewer than" in capsys.readouterr().err
    assert run(EMBEDDED_MODEL) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["model"].startswith("random weights of ")


def test_stopped_it_tells_what_it_has(random_model_folder: Path, quick_copy: None, monkeypatch: pytest.MonkeyPatch,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    def stopped(*_: Any) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(lab_benchmark, "bare", stopped)  # the measurement after decode
    assert shell(random_model_folder, "--stock", "none") == 130
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["stopped_early"] and len(found["decode"]) == 1 and not found["tracing"]


@pytest.mark.parametrize(("arguments", "said"), [
    (["--k", "65"], "from 1 to 64"), (["--k", "many"], "whole numbers"), (["--k", "0"], "--k must be at least 1"),
    (["--stock", "fast"], "--stock must be"), (["--new-tokens", "2"], "--new-tokens must be at least 3"),
    (["--batch", "0"], "--batch must be at least 1"), (["--repeats", "0"], "--repeat")])
def test_bad_options_are_sentences(random_model_folder: Path, quick_copy: None, arguments: list[str], said: str,
                                   capsys: pytest.CaptureFixture[str]) -> None:
    assert shell(random_model_folder, *arguments) == 2
    assert said in capsys.readouterr().err
