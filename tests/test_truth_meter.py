"""What a text costs at each k: against stock transformers, by hand, and as typed in the shell."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from olmoe_space.__main__ import main
from olmoe_space.comparison import Speed
from olmoe_space.engine.engine import Engine
from olmoe_space.lab import teacher_forced
from olmoe_space.lab.quality import HELD_OUT, read_texts
from olmoe_space.lab.truth_meter import KS, kl_divergence, token_nll, truth_meter
from olmoe_space.truth import Score, find, joined, verdict

from .test_exactness import stock_with

PROMPT = list(b"Why is the sky blue?")
REPLY = list(b"Because air scatters blue light more than red light.")


def scores_of(model: Any, tokenizer: Any, **options: Any) -> list[Score]:
    return [s for s in truth_meter(Engine(model, tokenizer), PROMPT, REPLY, **options) if isinstance(s, Score)]


def test_totals_equal_stock_transformers_built_at_each_k(any_olmoe: Any, tokenizer: Any) -> None:
    ids = torch.tensor([PROMPT + REPLY])
    own = any_olmoe.config.num_experts_per_tok

    def stock(k: int) -> torch.Tensor:
        with torch.no_grad():
            logits = stock_with(any_olmoe, k)(ids).logits[0, len(PROMPT) - 1:-1]
        return torch.log_softmax(logits.double(), -1)

    reference = stock(own)
    scores = scores_of(any_olmoe, tokenizer, weightings=("raw",), speed=False)
    assert [s.num_experts_per_tok for s in scores] == [
        own, *(k for k in KS if k <= any_olmoe.config.num_experts and k != own)]
    for score in scores:
        theirs = stock(score.num_experts_per_tok)
        nll = -theirs.gather(-1, torch.tensor(REPLY)[:, None]).sum()
        assert abs(score.total_nll - float(nll)) < 1e-4, score.num_experts_per_tok
        kl = (reference.exp() * (reference - theirs)).sum(-1)
        np.testing.assert_allclose(score.kl, kl.numpy(), atol=1e-4)


@pytest.mark.parametrize("k", [1, 8, 64])
def test_totals_equal_stock_on_olmoe_tiny(olmoe_tiny: tuple[Any, Any], k: int) -> None:
    model, tokenizer = olmoe_tiny
    ids = tokenizer("The harbour was quiet in the morning, and two boats had come in before sunrise.")["input_ids"]
    score = find([s for s in truth_meter(Engine(model, tokenizer), ids[:3], ids[3:], [k], ("raw",), speed=False)
                  if isinstance(s, Score)], k)
    with torch.no_grad():
        logits = stock_with(model, k)(torch.tensor([ids])).logits[0, 2:-1]
    assert score is not None
    theirs = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[3:]), reduction="sum")
    assert abs(score.total_nll - float(theirs)) < 1e-4


def test_weightings_and_the_own_k(plain_olmoe: Any, tokenizer: Any) -> None:
    scores = scores_of(plain_olmoe, tokenizer, ks=(2, 4, 8))
    assert len(scores) == 9 and (scores[0].num_experts_per_tok, scores[0].weighting) == (4, "raw")
    assert not scores[0].kl.any()
    same = find(scores, 4, "mass_preserving")  # at the own k that is the own mass
    assert same is not None
    np.testing.assert_allclose(same.nll, scores[0].nll, atol=1e-5)
    others = [s.total_nll for s in scores if s.weighting == "renormalised"]
    assert all(abs(a - scores[0].total_nll) > 1e-3 for a in others)
    assert all(s.kl.mean() > 1e-6 for s in scores if s.num_experts_per_tok == 2)


def test_pieces_do_not_change_the_sum(plain_olmoe: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = scores_of(plain_olmoe, tokenizer, ks=(16,), speed=False)
    monkeypatch.setattr(teacher_forced, "CHUNK", 7)
    for a, b in zip(whole, scores_of(plain_olmoe, tokenizer, ks=(16,), speed=False), strict=True):
        np.testing.assert_allclose(a.nll, b.nll, rtol=1e-5)  # sums of float32 in another order


def test_results_pickle_and_speed_comes_last(plain_olmoe: Any, tokenizer: Any) -> None:
    results = list(truth_meter(Engine(plain_olmoe, tokenizer), PROMPT, REPLY, (1, 16), ("raw",)))
    assert [type(r) for r in results] == [Score] * 3 + [Speed] * 3
    assert all(r.tokens_per_s > 0 for r in results if isinstance(r, Speed))
    again = pickle.loads(pickle.dumps(results))
    assert (again[0].nll == results[0].nll).all()  # type: ignore[union-attr]


def test_without_a_prompt_the_first_token_is_not_scored(plain_olmoe: Any, tokenizer: Any) -> None:
    engine = Engine(plain_olmoe, tokenizer)
    [score] = truth_meter(engine, [], REPLY, (4,), ("raw",), speed=False)
    assert isinstance(score, Score) and len(score.nll) == len(REPLY) - 1
    with pytest.raises(ValueError, match="only behind another"):
        list(truth_meter(engine, [], [65]))
    with pytest.raises(ValueError, match="Shorten it"):
        list(truth_meter(engine, [65] * 513, [66] * 2))


def test_the_formulas_by_hand() -> None:
    p = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
    q = torch.tensor([[0.25, 0.25, 0.25, 0.25]]).log()
    assert float(token_nll(p, torch.tensor([1]))[0]) == pytest.approx(math.log(4))
    assert float(kl_divergence(p, q)[0]) == pytest.approx(0.25 * math.log(2))  # .5 ln 2 + 2 x .125 ln .5
    assert float(kl_divergence(p, p)[0]) == 0


def score(k: int, nll: float, weighting: str = "raw") -> Score:
    return Score(k, weighting, np.full(4, nll), np.zeros(4))


@pytest.mark.parametrize(("other", "speed", "said"), [
    (score(16, 2.05), 50, "On this text k=16 costs +0.05 nats a token and is 1.6 × slower, against"),
    (score(16, 1.9), 50, "k=16 saves 0.10 nats a token and is 1.6 × slower"),
    (score(4, 2.2), 120, "k=4 costs +0.20 nats a token and is 1.5 × faster"),
    (score(8, 2.004, "renormalised"), 80, "k=8 renormalised costs +0.004 nats a token at the same speed to 5 %"),
    (score(9, 2.0001), None, "k=9 costs the same to 0.001 nats a token, against the model's own k=8."),
])
def test_the_verdict_says_the_numbers_with_their_signs(other: Score, speed: float | None, said: str) -> None:
    line = verdict(other, score(8, 2.0), speed, 80)
    assert said in line and "better" not in line


def test_joined_scores_are_of_all_texts() -> None:
    both = joined([score(8, 1.0), Score(8, "raw", np.array([6.0]), np.array([1.0]))])
    assert both.mean_nll == pytest.approx(2.0) and both.mean_kl == pytest.approx(0.2)
    with pytest.raises(ValueError):
        joined([score(8, 1), score(4, 1)])


def test_quality_from_the_shell(random_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "texts.jsonl"
    text.write_text('{"text": "One short text."}\n\n{"text": "And another, a little longer."}\n')
    plain = tmp_path / "plain.txt"
    plain.write_text("A plain one.")
    arguments = ["--model", str(random_model_folder), "quality", "--k", "4,16", "--text", str(text)]
    assert main([*arguments, "--text", str(plain), "--weighting", "raw,renormalised", "--json"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert out["texts"] == out["of_texts"] == 3 and out["own_k"] == 8
    assert [(s["k"], s["weighting"]) for s in out["settings"]] == [
        (8, "raw"), (4, "raw"), (16, "raw"), (4, "renormalised"), (16, "renormalised")]
    assert all(s["tokens"] == 14 + 28 + 11 and s["tokens_per_s"] > 0 for s in out["settings"])
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert "k=16" in said.out and "nats a token" in said.out and "2 of 2 texts" in said.err


def test_quality_interrupted_keeps_what_it_has(random_model_folder: Path, capsys: pytest.CaptureFixture[str],
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    import olmoe_space.shell.quality as shell

    def interrupted(*_: Any) -> Any:
        yield 1, [score(8, 2.0), score(4, 2.5)]
        raise KeyboardInterrupt

    monkeypatch.setattr(shell, "quality", interrupted)
    assert main(["--model", str(random_model_folder), "quality", "--k", "4"]) == 130
    said = capsys.readouterr()
    assert "stopped" in said.err and "1 of 8 texts" in said.err and "costs +0.50 nats a token" in said.out


@pytest.mark.parametrize(("arguments", "said"), [
    (["--k", "0"], "from 1 to 64"), (["--weighting", "best"], "Weighting"), (["--text", "no-such"], "no-such")])
def test_bad_arguments_are_sentences(random_model_folder: Path, capsys: pytest.CaptureFixture[str],
                                     arguments: list[str], said: str) -> None:
    assert main(["--model", str(random_model_folder), "quality", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_the_texts_that_come_with_it_can_be_read() -> None:
    assert len(read_texts([HELD_OUT])) == 8
