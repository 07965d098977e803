"""The shell, as typed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from olmoe_space.__main__ import main


def run(folder: Path, *arguments: str) -> int:
    return main(["--model", str(folder), *arguments])


def test_generate_prints_text_or_json(random_model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(random_model_folder, "generate", "Hi", "--k", "16", "--seed", "0", "--max-new-tokens", "5") == 0
    text = capsys.readouterr().out
    assert run(random_model_folder, "generate", "Hi", "--k", "16", "--seed", "0", "--max-new-tokens", "5",
               "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["text"] == text.removesuffix("\n")
    assert answer["num_experts_per_tok"] == 16 and answer["new_tokens"] == 5
    counts = np.array(answer["expert_counts"])
    assert counts.shape[1] == 64 and (counts.sum(1) == 5 * 16).all()


def test_adaptive_k_comes_with_its_reasons(random_model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(random_model_folder, "generate", "Prove that every eigenvalue of a unitary matrix has modulus one.",
               "--k", "adaptive", "--max-new-tokens", "2", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert 4 < answer["num_experts_per_tok"] == answer["choice"]["k"] <= 16
    assert run(random_model_folder, "choose", "Hello there!") == 0
    assert json.loads(capsys.readouterr().out)["k"] < answer["choice"]["k"]


def test_the_trace_can_be_saved(random_model_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "trace.npz"
    assert run(random_model_folder, "generate", "Hi", "--max-new-tokens", "3", "--trace", str(file)) == 0
    with np.load(file) as trace:
        assert trace["selected_experts"].shape[1:] == (3, 8)


@pytest.mark.parametrize(("arguments", "said"), [
    (["--k", "0"], "from 1 to 64"), (["--k", "many"], "many"), (["--temperature", "-1"], "at least 0"),
    (["--weighting", "best"], "Weighting"), (["--max-new-tokens", "0"], "Max new tokens")])
def test_bad_arguments_are_sentences(random_model_folder: Path, capsys: pytest.CaptureFixture[str],
                                     arguments: list[str], said: str) -> None:
    assert run(random_model_folder, "generate", "Hi", *arguments) == 2
    error = capsys.readouterr().err
    assert error.strip().splitlines()[-1].startswith("error: ") and said in error


def test_a_model_that_cannot_be_loaded_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "no/such", "generate", "Hi"]) == 2
    assert "could not be loaded" in capsys.readouterr().err
