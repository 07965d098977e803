"""The shell, as typed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from olmoe_space.__main__ import main
from olmoe_space.lab.domain_sample import sample_texts
from olmoe_space.shell.stopping import terminable, until_stopped

from .serving import QUIET, REPOSITORY


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


def test_compare_tells_the_replies_and_where_they_part(random_model_folder: Path,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("compare", "Hi", "--k", "8,adaptive,64", "--max-new-tokens", "6", "--seed", "0")
    assert run(random_model_folder, *asked, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["settings"] == ["k=8", "adaptive", "k=64"]
    assert [r["num_experts_per_tok"] for r in told["replies"]][::2] == [8, 64]
    assert all(r["tokens_per_s_alone"] > 0 and r["seed"] == 0 for r in told["replies"])
    first = told["partings"][0]
    assert len(first["probs"]) == len(first["replies"]) and len(set(first["taken"])) > 1
    assert run(random_model_folder, "generate", "Hi", "--k", "64", "--temperature", "0", "--top-p", "1",
               "--max-new-tokens", "6", "--json") == 0
    assert json.loads(capsys.readouterr().out)["text"] == told["replies"][2]["text"]
    assert run(random_model_folder, *asked) == 0
    assert f"token {first['position'] + 1}: " in capsys.readouterr().out


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_what_is_done_before_a_signal_is_kept(name: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a shell leaves it to what it runs in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    done = []
    with terminable(), until_stopped() as ending:
        done.append("first")
        signal.raise_signal(signal.Signals[name])
        done.append("second")
    assert done == ["first"] and ending.early and ending.exit_code == code
    assert "stopped" in capsys.readouterr().err


def test_sigterm_ends_a_reply_and_keeps_it(olmoe_tiny_folder: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.npz"
    with subprocess.Popen(
            [sys.executable, "-m", "olmoe_space", "--model", str(olmoe_tiny_folder), "generate", "Tell a long story.",
             "--max-new-tokens", "1000", "--k", "64", "--trace", str(trace)], cwd=REPOSITORY, env=os.environ | QUIET,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        begun = process.stdout.read(1)
        process.terminate()
        rest, error = process.communicate(timeout=120)
    assert process.returncode == 143, error.decode()
    assert begun and b"stopped" in error
    with np.load(trace) as saved:
        assert (begun + rest).decode().rstrip("\n") in "".join(json.loads(str(saved["texts"])))


def test_a_reader_who_has_enough_ends_it_without_a_traceback() -> None:
    with subprocess.Popen([sys.executable, "-m", "olmoe_space", "choose", "Hi"], cwd=REPOSITORY, env=os.environ | QUIET,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert "BrokenPipe" not in process.stderr.read()
    assert process.returncode == 128 + signal.SIGPIPE


def test_experts_surveys_a_text_and_compares_two(random_model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(random_model_folder, "experts", "Two words", "--other", "Other ones", "--k", "4") == 0
    text = capsys.readouterr().out
    assert "the text: 9 tokens, k = 4" in text and "Jensen-Shannon divergence" in text
    assert run(random_model_folder, "experts", "Two words", "--json") == 0
    (survey,) = json.loads(capsys.readouterr().out)["surveys"]
    assert (np.array(survey["expert_counts"]).sum(1) == 9 * 8).all()
    assert run(random_model_folder, "experts", "--other", "alone") == 2
    assert "give one" in capsys.readouterr().err


def test_experts_without_a_text_studies_the_model(random_model_folder: Path, capsys: pytest.CaptureFixture[str],
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("olmoe_space.shell.experts.domains", lambda: ("dialogue", "science"))
    monkeypatch.setattr("olmoe_space.lab.reading.sample_texts", lambda domain: sample_texts(domain)[:3])
    assert run(random_model_folder, "experts", "--json") == 0
    told = json.loads(capsys.readouterr().out)["study"]
    assert told["texts"] == 6 and len(told["insights"]) == 6
    assert run(random_model_folder, "experts") == 0
    assert "Vocabulary clusters" in capsys.readouterr().out
