"""olmoe_space.training: a tokenizer that loses nothing, a seeded mixture, an export that stock OLMoE agrees with."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from olmoe_space.training import average, conversations, corpus, export, mixture, tokenizer
from olmoe_space.training.model import SIZES, Segments, TrainingModel
from olmoe_space.training.schedule import Schedule
from olmoe_space.training.train import Settings, train


def write(path: Path, lines: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="module")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    rng = random.Random(0)
    words = "the cat sat on a red mat and 12 small birds sang to 7 old trees by the sea".split()
    for domain in corpus.DOMAINS:
        texts = [" ".join(rng.choices(words, k=120)) for _ in range(20)]
        write(folder / "pretrain" / f"{domain}.jsonl", [{"text": text, "source": "made-up"} for text in texts])
        write(folder / "heldout" / f"{domain}.jsonl", [{"text": "secret", "source": "made-up"}])
    chat = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello to you!"}]
    write(folder / "chat.jsonl", [{"messages": chat, "domain": "chat", "source": "own-smalltalk"}] * 5)
    own = [
        {"q": ["What is 2 + 2?", "2 + 2"], "a": ["4", "It is 4."]},
        {"turns": [["user", "I have a {pet}."], ["assistant", "A {pet}!"]], "slots": {"pet": ["cat", "dog"]}},
    ]
    write(folder / "own" / "smalltalk.jsonl", own)
    write(folder / "stdlib" / "placeholder.jsonl", [])
    (folder / "stdlib" / "module.py").write_text("def double(x):\n    return 2 * x\n" * 20)
    return folder


@pytest.fixture(scope="module")
def hub_folder(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    texts = [text for domain in corpus.DOMAINS for text in corpus.pretrain_texts(tiny_corpus, domain)]
    tokenizer.save(tokenizer.train(texts, vocab_size=300), folder)
    return folder


def load(tiny_corpus: Path, hub_folder: Path, seed: int = 0) -> mixture.Mixture:
    return mixture.load(tiny_corpus, tokenizer.load(hub_folder), seed, stdlib=tiny_corpus / "stdlib")


def settings(out: Path, **changes) -> Settings:
    base = dict(out=out, size="micro", tokens_per_step=256, segments=128, steps=6, schedule=Schedule(3e-3, 2, 0.5))
    return Settings(**(base | changes))


TEXTS = [
    "", " ", "plain text", "  two  spaces \t\n\n and lines\r\n", "2048 + 16 = 2064", "naïve café ½",
    "日本語 русский العربية",
    "👩‍👩‍👧‍👦 🏳️‍🌈", "\u202eright to left\u202c", "a\u0301\u0300",
    "\x00\x07\x7f", "<|user|>\nhi\n<|assistant|>\n", "\U0010ffff\ufffe",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_every_string_survives_the_tokenizer(hub_folder: Path, text: str) -> None:
    loaded = AutoTokenizer.from_pretrained(hub_folder)
    assert loaded.decode(loaded(text).input_ids) == text


def test_random_unicode_survives_the_tokenizer(hub_folder: Path) -> None:
    loaded, rng = AutoTokenizer.from_pretrained(hub_folder), random.Random(1)
    for _ in range(300):
        points = [rng.choice((rng.randrange(0x20, 0x7F), rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)))
                  for _ in range(rng.randrange(1, 20))]  # fmt: skip
        text = "".join(map(chr, points))
        assert loaded.decode(loaded(text).input_ids) == text


def test_digits_stand_alone_and_nothing_is_added(hub_folder: Path) -> None:
    loaded = AutoTokenizer.from_pretrained(hub_folder)
    assert loaded.convert_ids_to_tokens(loaded("2048").input_ids) == ["2", "0", "4", "8"]
    assert (loaded.eos_token_id, loaded.pad_token_id, loaded.bos_token_id) == (0, 1, None)


def test_training_writes_chats_as_the_template_does(hub_folder: Path) -> None:
    loaded = AutoTokenizer.from_pretrained(hub_folder)
    turns = [("system", "Be kind."), ("user", "Hi 12"), ("assistant", "Hello!"), ("user", "Why?"), ("assistant", "So.")]
    messages = [{"role": role, "content": text} for role, text in turns]
    text = loaded.apply_chat_template(messages, tokenize=False)
    ids, weights = mixture.encode_turns(turns, mixture.Encoder(tokenizer.load(hub_folder)))
    assert ids.tolist() == loaded(text).input_ids
    replies = loaded.decode(ids[weights == 1.0])
    assert replies == f"Hello!{tokenizer.EOS}So.{tokenizer.EOS}"


def test_slots_are_filled_alike_and_other_braces_left_alone() -> None:
    line = {"q": ["{n} has {0} and {x"], "a": ["{n}!"], "slots": {"n": ["Kofi"]}}
    assert conversations.expand(line, random.Random(3))[1] == ("assistant", "Kofi!")
    assert conversations.fill(line["q"][0], {"n": "Kofi"}) == "Kofi has {0} and {x"


def test_a_name_given_is_the_name_told() -> None:
    for seed in range(50):
        chat = conversations.remembered_name(lambda: [("user", "2 + 2"), ("assistant", "4")], random.Random(seed))
        named = [name for name in conversations.NAMES if f" {name}" in " " + chat[0][1]]
        assert any(name in chat[-1][1] for name in named)


def test_joined_chats_speak_of_the_visitor_only_at_the_start() -> None:
    lines = [[("user", "What is my name?"), ("assistant", "I do not know.")], [("user", "Hi"), ("assistant", "Hi!")]]
    for seed in range(200):
        rng = random.Random(seed)
        chat = conversations.join(lambda rng=rng: rng.choice(lines), rng)
        assert not any(conversations.PERSONAL.search(text) for role, text in chat[2:] if role == "user")


def test_a_batch_depends_on_seed_number_and_stage_alone(tiny_corpus: Path, hub_folder: Path) -> None:
    one, same, other = load(tiny_corpus, hub_folder), load(tiny_corpus, hub_folder), load(tiny_corpus, hub_folder, 1)
    one.batch(3, "stable", 512, 256)  # what came before must not matter
    batch = one.batch(7, "decay", 512, 256)
    np.testing.assert_array_equal(batch.tokens, same.batch(7, "decay", 512, 256).tokens)
    assert not np.array_equal(batch.tokens, other.batch(7, "decay", 512, 256).tokens)
    assert not np.array_equal(batch.tokens, one.batch(8, "decay", 512, 256).tokens)


def test_a_batch_is_packed_right(tiny_corpus: Path, hub_folder: Path) -> None:
    batch = load(tiny_corpus, hub_folder).batch(0, "stable", 512, 256)
    assert batch.starts[0] == 0 and batch.starts[-1] == 512 and (np.diff(batch.starts) >= 0).all()
    for start, end in zip(batch.starts, batch.starts[1:], strict=False):
        if start < end:
            assert batch.positions[start:end].tolist() == list(range(end - start))
            assert batch.weights[end - 1] == 0  # nothing to predict past a segment
            assert batch.targets[start : end - 1].tolist() == batch.tokens[start + 1 : end].tolist()


def test_heldout_is_never_opened_by_training(tiny_corpus: Path, hub_folder: Path, tmp_path: Path) -> None:
    opened: list[str] = []
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
    mixed = load(tiny_corpus, hub_folder)
    train(settings(tmp_path, steps=1), mixed)
    list(tokenizer.sample(tiny_corpus, 0.001, 0))
    assert any("/pretrain/" in path for path in opened)
    assert not any("/heldout/" in path for path in opened)


def test_export_is_stock_olmoe_with_the_same_logits(hub_folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = SIZES["micro"]
    model = TrainingModel(config)
    with torch.no_grad():
        model.norms.mul_(1 + 0.2 * torch.rand_like(model.norms))
        model.router.mul_(20)  # far from even, so that the choice of experts is put to the test
    export.write_weights(dict(model.state_dict()), config, tmp_path, torch.float32)
    export.write_config(config, tmp_path, "float32")
    stock = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert type(stock).__name__ == "OlmoeForCausalLM"
    tokens = torch.randint(0, config.vocab, (40,))
    starts = torch.tensor([0, 15, 40, 40], dtype=torch.int32)
    positions = torch.cat((torch.arange(15), torch.arange(25)))
    with torch.no_grad():
        ours = model.logits(tokens, Segments(positions, starts))
        for start, end in ((0, 15), (15, 40)):
            theirs = stock(tokens[None, start:end]).logits[0]
            torch.testing.assert_close(ours[start:end], theirs, atol=1e-4, rtol=1e-4)


def test_weights_read_back_are_the_weights_written(tmp_path: Path) -> None:
    weights = dict(TrainingModel(SIZES["micro"]).state_dict())
    export.write_weights(weights, SIZES["micro"], tmp_path, torch.float32)
    for name, tensor in export.read_weights(tmp_path, SIZES["micro"]).items():
        torch.testing.assert_close(tensor, weights[name], atol=0, rtol=0)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_resumed_run_ends_where_an_unbroken_one_does(
    tiny_corpus: Path, hub_folder: Path, tmp_path: Path, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed = load(tiny_corpus, hub_folder)
    train(settings(tmp_path / "whole", optimizer=optimizer), mixed)

    from olmoe_space.training import train as module

    progress = module.Run.progress
    monkeypatch.setattr(module.Run, "progress", lambda self: 1.0 if self.step == 3 else progress(self))
    train(settings(tmp_path / "broken", optimizer=optimizer), mixed)
    monkeypatch.undo()
    train(settings(tmp_path / "broken", optimizer=optimizer), mixed)

    states = [torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("whole", "broken")]
    assert states[0]["step"] == states[1]["step"] == 6
    for name, tensor in states[0]["model"].items():
        torch.testing.assert_close(tensor, states[1]["model"][name], atol=1e-6, rtol=0)


def test_the_mean_of_two_runs_and_the_factor_on_every_logit(hub_folder: Path, tmp_path: Path) -> None:
    config, folders = SIZES["micro"], [tmp_path / name for name in ("first", "second")]
    weights = []
    for seed, folder in enumerate(folders):
        torch.manual_seed(seed)
        export.write_weights(dict(TrainingModel(config).named_parameters()), config, folder, torch.float32)
        weights.append(export.read_weights(folder, config))
    mean = average.average([(folders[0], 0.25), (folders[1], 0.75)], 0.5, config)
    for name in set(mean) - {"final_norm"}:
        torch.testing.assert_close(mean[name], 0.25 * weights[0][name] + 0.75 * weights[1][name])
    torch.testing.assert_close(mean["final_norm"], 0.125 * weights[0]["final_norm"] + 0.375 * weights[1]["final_norm"])
    with pytest.raises(ValueError, match="they sum to 0.9"):
        average.average([(folders[0], 0.9)], 1, config)

    logits = []
    for scale in (1.0, 0.5):  # as stock transformers has it
        folder = tmp_path / str(scale)
        export.write_weights(average.average([(folders[0], 1.0)], scale, config), config, folder, torch.float32)
        export.write_config(config, folder, "float32")
        with torch.no_grad():
            logits.append(AutoModelForCausalLM.from_pretrained(folder)(torch.tensor([[5, 6, 7]])).logits)
    torch.testing.assert_close(logits[1], 0.5 * logits[0])


def test_the_schedule_warms_up_holds_and_falls_to_nothing() -> None:
    schedule = Schedule(peak=1.0, warmup_steps=10, decay_share=0.4)
    assert schedule.lr(0, 0.0) == pytest.approx(0.1)
    assert schedule.lr(500, 0.5) == 1.0
    assert schedule.lr(900, 0.8) == pytest.approx(0.5)
    assert schedule.lr(1000, 1.0) == 0.0
    assert [schedule.stage(p) for p in (0.0, 0.59, 0.61, 1.0)] == ["stable", "stable", "decay", "decay"]
