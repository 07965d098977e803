"""The chatbot's value: a list of messages as gradio keeps them in the visitor's browser.

A reply's quiet line (k, speed, mass, notices) travels in the message's metadata, never in its text, so
that what goes back to the model is what was said and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Chat = list[dict[str, Any]]
_MARKUP = re.compile(r"&(?=[a-zA-Z#])|<(?=[a-zA-Z/!?])")
_ESCAPED = re.compile("&(amp|lt);")


@dataclass(frozen=True)
class Note:
    """What belongs to a reply without being part of it: its quiet line, and the id of the turn that made it."""

    line: str = ""
    turn: str = ""


def message(role: str, text: str, note: str = "", turn: str = "") -> dict[str, Any]:
    """A message as the chatbot is to hold it. `note`: its quiet line. `turn`: the id of the turn that made it."""
    # A list of parts, because a bare string would be dedented. "log" is shown only beside a "title", which is
    # never given: the page places the note itself.
    return {"role": role, "content": [{"type": "text", "text": as_shown(text)}],
            "metadata": {"log": note, "id": turn} if note else None}


def text_of(entry: dict[str, Any]) -> str:
    """What was said in a message of the chatbot."""
    content = entry.get("content")
    if isinstance(content, str):
        return as_said(content)
    return as_said("".join(part.get("text") or "" for part in content or [] if isinstance(part, dict)))


def as_shown(text: str) -> str:
    """`text` so that the chatbot shows it letter for letter: it takes text for HTML even with
    render_markdown=False. Where a character can begin no tag and no reference it is left alone.
    (assets/chat_text.js does the inverse for Copy and Edit.)"""
    return _MARKUP.sub(lambda m: "&amp;" if m[0] == "&" else "&lt;", text)


def as_said(shown: str) -> str:
    """The inverse of `as_shown`."""
    return _ESCAPED.sub(lambda m: "&" if m[1] == "amp" else "<", shown)


def said(chat: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """The chat as the model may read it: roles and texts."""
    return [{"role": entry["role"], "content": text_of(entry)} for entry in chat]


def notes(chat: Sequence[dict[str, Any]]) -> list[Note]:
    """The note of every reply in turn, empty where it has none. Replies in a row count as one, as shown."""
    found: list[Note] = []
    before = None
    for entry in chat:
        if entry["role"] == "assistant":
            data = entry.get("metadata") or {}
            note = Note(str(data.get("log") or ""), str(data.get("id") or ""))
            if before == "assistant":
                found[-1] = note
            else:
                found.append(note)
        before = entry["role"]
    return found


def last_question(chat: Sequence[dict[str, Any]], index: int | None = None) -> int | None:
    """Where the visitor's message is that entry `index` (None: the last) answers or is; None if there is none."""
    start = len(chat) - 1 if index is None else min(index, len(chat) - 1)
    return next((i for i in range(start, -1, -1) if chat[i]["role"] == "user"), None)
