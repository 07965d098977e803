"""The fakes are worth testing on: routers choose, k shows, the tokenizer loses nothing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from .fakes import EOS, SHAPES, byte_tokenizer, random_olmoe, save_random_olmoe

TOKENIZER = byte_tokenizer()
PROMPT = TOKENIZER("<|user|>\nWhy is the sky blue?\n<|assistant|>\n", return_tensors="pt").input_ids


@torch.inference_mode()
def test_k_shows_in_the_logits(any_olmoe):
    stock = any_olmoe(PROMPT).logits
    for layer in any_olmoe.model.layers:
        layer.mlp.gate.top_k = 1
    assert (any_olmoe(PROMPT).logits - stock).abs().max() > 0.5


@torch.inference_mode()
def test_greedy_text_is_not_one_token_over_and_over(any_olmoe):
    reply = any_olmoe.generate(PROMPT, max_new_tokens=32, do_sample=False)[0, PROMPT.shape[1]:]
    assert len(set(reply.tolist())) >= 8


def test_a_seed_gives_the_same_model_and_leaves_the_generator_alone():
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first, second, other = random_olmoe(), random_olmoe(), random_olmoe(seed=1)
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first.lm_head.weight, second.lm_head.weight)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_folder_loads_with_stock_transformers(tmp_path, shape):
    folder = save_random_olmoe(tmp_path / "model", shape)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        assert torch.equal(model(PROMPT).logits, random_olmoe(shape)(PROMPT).logits)
    assert model.generation_config.eos_token_id == EOS == tokenizer.eos_token_id
    assert tokenizer("Zoë ☀").input_ids == TOKENIZER("Zoë ☀").input_ids


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back(text):
    ids = TOKENIZER(text, add_special_tokens=False).input_ids
    assert TOKENIZER.decode(ids) == text


def test_the_chat_template_is_olmoes():
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Bye"}]
    assert TOKENIZER.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == (
        "<|system|>\nBe brief.\n<|user|>\nHi\n<|assistant|>\nHello.<|endoftext|>\n<|user|>\nBye\n<|assistant|>\n")
