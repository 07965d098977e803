"""Exchanges -> conversations: a line of own/ becomes a fresh chat every time it is drawn.

A line is `{"q": [phrasings], "a": [answers]}` or `{"turns": [[role, text], ...]}`, with `"slots": {name: [values]}`
filled alike throughout it. Lines are joined into longer chats, prompts vary in case and punctuation, and names are
asked for again after other talk, so that the model learns to look back.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

Turn = tuple[str, str]  # (role, text)

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a friendly assistant. Keep your answers short.",
    "You are olmoe-tiny, a small and friendly language model.",
    "Answer briefly and simply.",
    "You are a kind teacher.",
    "Be concise.",
)
NAMES = (
    "Ada Alan Alice Amir Anton Asha Astrid Aya Barbara Beatrice Bella Bob Boris Carla Charlie Clara Daniela Diana Dora "
    "Edgar Edith Elena Eli Elliot Emil Erika Esther Eva Farah Finn Fiona Flora Francis Gina Gloria Gus Hannah Harry "
    "Heidi Helen Henry Ida Igor Ingrid Isaac Isabel Jade James Jana Jane Jasmine Jim Joe Johanna John Jonas Joy Judy "
    "Karim Karl Kenji Kim Lars Laila Leon Linda Louis Lucy Luke Magda Malik Margaret Maria Mark Martha Mary Max Mei "
    "Michael Miles Mohamed Molly Nadia Naomi Nick Nikolai Nico Noor Olive Oliver Otto Patricia Pete Philip Quinn "
    "Rachel Ravi Rita Robin Ron Rosie Ruby Sally Sami Samuel Sandra Selma Sean Sofie Stella Stan Susan Sven Tanya Ted "
    "Thomas Tina Toby Uma Ursula Vera Vikram Violet Walter Will Xavier Yara Yusuf Zara Zelda"
).split()

NAME_GIVEN = (
    "My name is {n}.",
    "my name is {n}",
    "Hi, I am {n}.",
    "I'm {n}.",
    "Hello! My name is {n}.",
    "Call me {n}.",
)
NAME_TAKEN = (
    "Nice to meet you, {n}!",
    "Hello, {n}! How can I help you?",
    "Hi, {n}! What shall we talk about?",
    "It is nice to meet you, {n}. How can I help you today?",
)
NAME_ASKED = ("What is my name?", "what is my name", "What's my name?", "Do you remember my name?", "Who am I?")
NAME_TOLD = ("Your name is {n}.", "You told me that your name is {n}.", "You are {n}.")

PERSONAL = re.compile(
    r"\b(my|i am|i'm|who am i|call me|remember|forget|did i|have i|i told|do i|i said)\b", re.IGNORECASE
)
GREETINGS = ("Hi! ", "Hello! ", "Hey, ", "Hi, ", "ok, ", "OK. ", "Please tell me: ", "Quick question: ")
JOIN_LENGTHS = (1, 2, 3, 4, 5, 6, 8)
JOIN_WEIGHTS = (0.44, 0.22, 0.14, 0.09, 0.05, 0.04, 0.02)


def fill(text: str, values: dict[str, str]) -> str:
    """`text` with the declared slots replaced, and no other brace touched."""
    for name, value in values.items():
        text = text.replace("{" + name + "}", value)
    return text


def vary(prompt: str, rng: random.Random) -> str:
    """The prompt as another visitor might type it. Prompts that quote or show something are left alone."""
    if any(mark in prompt for mark in '`"\n:') or rng.random() > 0.3:
        return prompt
    choice = rng.random()
    if choice < 0.35:
        return prompt.lower()
    if choice < 0.6:
        return prompt.rstrip("?.! ") or prompt
    if choice < 0.75:
        return prompt.lower().rstrip("?.! ") or prompt
    if choice < 0.85:
        return rng.choice(GREETINGS) + prompt
    if choice < 0.93 and prompt[-1:] in "?.":
        return prompt[:-1] + rng.choice((", please" + prompt[-1], prompt[-1] * 2, " " + prompt[-1], "!"))
    return prompt[:1].upper() + prompt[1:]


def expand(line: dict[str, Any], rng: random.Random) -> list[Turn]:
    """One line as turns, with fresh phrasing, answer and slot values."""
    values = {}
    for name, options in line.get("slots", {}).items():
        more = name in ("name", "n1") and "Sam" in options and rng.random() < 0.5
        values[name] = rng.choice(NAMES if more else options)
    if "turns" in line:
        turns = [(role, fill(text, values)) for role, text in line["turns"]]
    else:
        turns = [("user", fill(rng.choice(line["q"]), values)), ("assistant", fill(rng.choice(line["a"]), values))]
    return [(role, vary(text, rng) if role == "user" else text) for role, text in turns]


def is_personal(turns: list[Turn]) -> bool:
    """Whether the exchange speaks of the visitor, so that joining it to another such one could contradict it."""
    return any(role == "user" and PERSONAL.search(text) for role, text in turns)


def join(draw: Callable[[], list[Turn]], rng: random.Random) -> list[Turn]:
    """One to eight exchanges in one chat: at most one personal one, which opens it."""
    wanted = rng.choices(JOIN_LENGTHS, JOIN_WEIGHTS)[0]
    chat: list[Turn] = []
    for number in range(wanted):
        turns = draw()
        if number and is_personal(turns):
            continue
        chat += turns
    return chat


def remembered_name(draw: Callable[[], list[Turn]], rng: random.Random) -> list[Turn]:
    """A chat that gives a name, talks of something else, and asks for the name."""
    values = {"n": rng.choice(NAMES)}
    said = [fill(rng.choice(lines), values) for lines in (NAME_GIVEN, NAME_TAKEN, NAME_ASKED, NAME_TOLD)]
    between: list[Turn] = []
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        turns = draw()
        if not is_personal(turns):
            between += turns
    return [("user", said[0]), ("assistant", said[1]), *between, ("user", said[2]), ("assistant", said[3])]


def converse(draw: Callable[[], list[Turn]], rng: random.Random) -> list[Turn]:
    """One training chat from a source of exchanges."""
    chat = remembered_name(draw, rng) if rng.random() < 0.03 else join(draw, rng)
    if rng.random() < 0.06:
        chat = [("system", rng.choice(SYSTEM_PROMPTS)), *chat]
    return chat


def render(turns: list[Turn]) -> list[tuple[str, bool]]:
    """Turns as the chat template writes them, in pieces: (text, is a reply). After each reply comes the end token."""
    pieces: list[tuple[str, bool]] = []
    prompt = ""
    for role, text in turns:
        text = text.strip()
        if role == "assistant":
            pieces += [(prompt + "<|assistant|>\n", False), (text, True)]
            prompt = "\n"
        else:
            prompt += f"<|{role}|>\n{text}\n"
    return pieces
