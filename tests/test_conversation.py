"""Messages -> token ids that fit."""

from __future__ import annotations

from typing import Any

import pytest

from olmoe_space.conversation import encode
from olmoe_space.request import Message


def user(text: str) -> Message:
    return Message("user", text)


def bot(text: str) -> Message:
    return Message("assistant", text)


def text_of(tokenizer: Any, prompt: Any) -> str:
    return tokenizer.decode(prompt.token_ids)


def test_the_template_is_the_tokenizers(tokenizer: Any) -> None:
    prompt = encode(tokenizer, [Message("system", "Be brief."), user("Hi"), bot("Hello"), user("Bye")], 512, 100)
    assert text_of(tokenizer, prompt) == ("<|system|>\nBe brief.\n<|user|>\nHi\n<|assistant|>\nHello<|endoftext|>\n"
                                          "<|user|>\nBye\n<|assistant|>\n")
    assert prompt.max_new_tokens == 100 and prompt.notices == ()


def test_oldest_turns_go_first_and_it_is_said(tokenizer: Any) -> None:
    turns = [m for i in range(20) for m in (user(f"question {i} " + "x" * 20), bot(f"answer {i}"))]
    prompt = encode(tokenizer, [Message("system", "Be brief."), *turns, user("last")], 512, 100)
    text = text_of(tokenizer, prompt)
    assert len(prompt.token_ids) <= 512 - 100
    assert "Be brief." in text and "last" in text and "question 19" in text and "question 0 " not in text
    assert text.split("\n")[2] == "<|user|>"  # what is kept begins with a question
    assert "oldest messages" in prompt.notices[0]


def test_a_message_too_long_by_itself_is_refused_with_both_numbers(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=r"has 6\d\d tokens; at most 412 fit"):
        encode(tokenizer, [user("old"), bot("older"), user("x" * 600)], 512, 100)


def test_a_reply_that_cannot_be_as_long_as_asked_is_announced(tokenizer: Any) -> None:
    prompt = encode(tokenizer, [user("x" * 200)], 512, 1000)
    assert prompt.max_new_tokens == 512 - len(prompt.token_ids)
    assert f"at most {prompt.max_new_tokens} tokens" in prompt.notices[0]


def test_a_base_model_goes_on_with_the_text(tokenizer: Any) -> None:
    import copy

    base = copy.deepcopy(tokenizer)
    base.chat_template = None
    assert text_of(base, encode(base, [user("Once upon a time")], 512, 10)) == "Once upon a time"
