"""Messages -> token ids that fit the context window, and what had to be left out.

Knows the tokenizer, nothing of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .request import Message

REPLY_SHARE = 4  # at least a quarter of the context (or max_new_tokens, if less) stays free for the reply


@dataclass(frozen=True)
class Prompt:
    """What the model reads, and how much it may write."""

    token_ids: tuple[int, ...]
    max_new_tokens: int
    notices: tuple[str, ...]


def encode(tokenizer: Any, messages: Sequence[Message], context_length: int, max_new_tokens: int) -> Prompt:
    """The conversation as token ids, oldest turns dropped until it fits `context_length` with room to answer.

    Raises ValueError if the last message (with the system prompt) is too long by itself.
    """
    system = [m for m in messages if m.role == "system"]
    turns = [m for m in messages if m.role != "system"]
    limit = context_length - min(max_new_tokens, context_length // REPLY_SHARE)
    dropped = 0
    ids = _token_ids(tokenizer, system + turns)
    while len(ids) > limit and len(turns) > 1:
        keep = next((i for i, m in enumerate(turns) if i > 0 and m.role == "user"), len(turns) - 1)
        turns, dropped = turns[keep:], dropped + keep
        ids = _token_ids(tokenizer, system + turns)
    if len(ids) > limit:
        what = "message and system prompt have" if system else "message has"
        raise ValueError(f"The {what} {len(ids):,} tokens; at most {limit:,} fit this model's context of "
                         f"{context_length:,} with room for a reply. Shorten it.")
    notices = []
    if dropped:
        notices.append(f"The {dropped} oldest messages no longer fit the context of {context_length:,} tokens "
                       "and were left out.")
    room = context_length - len(ids)
    if room < max_new_tokens:
        notices.append(f"The reply can have at most {room:,} tokens: the context of {context_length:,} is then full.")
    return Prompt(tuple(ids), min(max_new_tokens, room), tuple(notices))


def _token_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    if tokenizer.chat_template is None:  # a base model goes on with the text; there are no roles in it
        ids = tokenizer("\n\n".join(m.content for m in messages))["input_ids"]
    else:
        ids = tokenizer.apply_chat_template([{"role": m.role, "content": m.content} for m in messages],
                                            add_generation_prompt=True, return_dict=False)
    return list(ids)
