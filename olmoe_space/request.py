"""What a caller asks of the engine: messages, how to sample, how many experts.

Small frozen objects that refuse what makes no sense with a sentence that says what to do instead.
They know nothing of the model: whether k fits its experts, or the prompt its context, is checked
where the model is known.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from .checks import real_number, shown, whole_number
from .rules import ExpertScale, TokenRule

Weighting = Literal["raw", "renormalised", "mass_preserving"]
Role = Literal["system", "user", "assistant"]
ADAPTIVE = "adaptive"
MAX_EXPERTS = 64
MAX_SEED = 2**63 - 1
# Letters and symbols by category, yet nothing to see: Hangul fillers and the blank Braille pattern.
BLANK_CHARACTERS = "\u115f\u1160\u2800\u3164\uffa0"


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is drawn.

    temperature: 0 is greedy; otherwise logits are divided by it.
    top_p: nucleus in (0, 1]: the smallest set of tokens whose probabilities reach it.
    max_new_tokens: the reply ends after so many tokens.
    seed: same seed, same request, same text. None: the engine draws one and reports it.
    """

    temperature: float = 0.6
    top_p: float = 0.95
    max_new_tokens: int = 256
    seed: int | None = None

    def __post_init__(self) -> None:
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731  (frozen: normalised once)
        put("temperature", real_number(self.temperature, "Temperature", "a number of at least 0 (0 is greedy)",
                                       lambda x: x >= 0))
        put("top_p", real_number(self.top_p, "Top-p", "a number above 0 and at most 1", lambda x: 0 < x <= 1))
        put("max_new_tokens", whole_number(self.max_new_tokens, "Max new tokens", 1))
        if self.seed is not None:
            put("seed", whole_number(self.seed, "Seed", 0, MAX_SEED))


@dataclass(frozen=True)
class RoutingPolicy:
    """How many experts work on each token, and how their outputs are weighed.

    num_experts_per_tok: 1..64, or "adaptive": chosen once a prompt between k_min and k_max
        (see `olmoe_space.adaptive`), before the request reaches the engine. With a `rule` it is the largest k
        that the rule may choose, whatever was given.
    weighting: "raw": the softmax values of the selected experts (the model's own rule when its
        norm_topk_prob is false); "renormalised": divided by their sum; "mass_preserving": scaled to
        the sum that the model's default k would have selected.
    k_min, k_max: bounds of an adaptive k and of a rule's.
    rule: chooses k for each token and layer anew.
    expert_scales: factors on single experts' weights, after the weighting; 0 mutes an expert, which then counts as
        not selected, and leaves the others' weights as they were. Any triples; factors of 1 are dropped.
    """

    num_experts_per_tok: int | Literal["adaptive"] = 8
    weighting: Weighting = "raw"
    k_min: int = 4
    k_max: int = 16
    rule: TokenRule | None = None
    expert_scales: tuple[ExpertScale, ...] = ()

    def __post_init__(self) -> None:
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731
        put("k_min", whole_number(self.k_min, "k_min", 1, MAX_EXPERTS))
        put("k_max", whole_number(self.k_max, "k_max", 1, MAX_EXPERTS))
        if self.k_min > self.k_max:
            raise ValueError(f"k_min ({self.k_min}) must not be larger than k_max ({self.k_max}); swap them.")
        if self.rule is not None:
            put("num_experts_per_tok", self.rule.largest_k(self.k_min, self.k_max))
        elif self.num_experts_per_tok != ADAPTIVE:
            put("num_experts_per_tok",
                whole_number(self.num_experts_per_tok, "Active experts (k)", 1, MAX_EXPERTS))
        if self.weighting not in get_args(Weighting):
            raise ValueError(f"Weighting must be one of {', '.join(get_args(Weighting))}; "
                             f"got {shown(self.weighting)}.")
        put("expert_scales", _scales(self.expert_scales))

    @property
    def is_adaptive(self) -> bool:
        return self.num_experts_per_tok == ADAPTIVE

    @property
    def is_plain(self) -> bool:
        """One k for every token and layer, and no expert scaled."""
        return self.rule is None and not self.expert_scales

    def fixed_at(self, k: int) -> RoutingPolicy:
        """This policy with the k that the adaptive choice arrived at."""
        return replace(self, num_experts_per_tok=k)

    def in_words(self) -> str:
        """What a plain k does not say: "top-p 0.4 within k 4 to 16 · expert 3 of layer 0 x 2"; "" if nothing."""
        rule = [f"{self.rule.in_words()} within k {self.k_min} to {self.k_max}"] if self.rule else []
        return " · ".join([*rule, *(f"expert {s.expert} of layer {s.layer} x {s.factor:g}"
                                    for s in self.expert_scales)])


def _scales(scales: Iterable[tuple[int, int, float]]) -> tuple[ExpertScale, ...]:
    checked = sorted(ExpertScale.checked(*scale) for scale in scales)
    if len({(s.layer, s.expert) for s in checked}) < len(checked):
        raise ValueError("An expert's factor may be given only once.")
    return tuple(s for s in checked if s.factor != 1)


@dataclass(frozen=True)
class Message:
    """One turn of a conversation, as plain text."""

    role: Role
    content: str

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise ValueError(f"A message's role must be one of {', '.join(get_args(Role))}; "
                             f"got {shown(self.role)}.")
        if not isinstance(self.content, str):
            raise ValueError(f"A message's content must be text; got {type(self.content).__name__}.")
        object.__setattr__(self, "content", well_formed(self.content))


@dataclass(frozen=True)
class GenerationRequest:
    """Everything the engine needs for one reply. The last message is the visitor's."""

    messages: tuple[Message, ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    routing: RoutingPolicy = field(default_factory=RoutingPolicy)

    def __post_init__(self) -> None:
        object.__setattr__(self, "messages", tuple(self.messages))
        if not self.messages or self.messages[-1].role != "user":
            raise ValueError("The last message must be the user's; there is nothing to answer.")

    @property
    def prompt(self) -> str:
        """The visitor's last message: what adaptive routing reads."""
        return self.messages[-1].content


def well_formed(text: str) -> str:
    """`text` with lone surrogates, which no tokenizer can read, replaced by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def visible_message(text: Any, max_chars: int) -> str:
    """The visitor's message, checked: text, not empty, not invisible, not over `max_chars` characters."""
    if not isinstance(text, str):
        raise ValueError(f"The message must be text; got {type(text).__name__}.")
    if len(text) > max_chars:
        raise ValueError(f"The message has {len(text):,} characters; at most {max_chars:,} are accepted. "
                         "Shorten it, or send it in parts.")
    text = well_formed(text)
    if not text.strip():
        raise ValueError("The message is empty. Type something first.")
    if not any(unicodedata.category(c)[0] in "LNPS" and c not in BLANK_CHARACTERS for c in text):
        raise ValueError("The message has only invisible characters. Type something that can be read.")
    return text


def messages_from_history(history: Any, max_chars: int, max_turns: int) -> list[Message]:
    """A chat history as messages.

    history: a list of {"role", "content"}, content being text or Gradio's list of
    {"type": "text", "text"} parts. Raises ValueError saying which entry is wrong.
    """
    if history is None or history == "":
        return []
    if not isinstance(history, Sequence) or isinstance(history, (str, bytes)):
        raise ValueError("The history must be a list of {role, content} messages; "
                         f"got {type(history).__name__}.")
    if len(history) > max_turns:
        raise ValueError(f"The history has {len(history):,} messages; at most {max_turns:,} are accepted. "
                         "Clear the chat or send the latest ones.")
    messages = []
    for i, entry in enumerate(history):
        if not isinstance(entry, dict) or "role" not in entry or "content" not in entry:
            raise ValueError(f"History entry {i + 1} must be a message with role and content; got {shown(entry)}.")
        try:
            messages.append(Message(entry["role"], plain_text(entry["content"])))
        except ValueError as error:
            raise ValueError(f"History entry {i + 1}: {error}") from None
    total = sum(len(m.content) for m in messages)
    if total > max_chars:
        raise ValueError(f"The history has {total:,} characters; at most {max_chars:,} are accepted. "
                         "Clear the chat or send the latest messages.")
    return messages


def plain_text(content: Any) -> Any:
    """A message's content as text, if it is text or a list of {"type": "text", "text"} parts; else as it came. Raises
    ValueError for parts of another kind."""
    if isinstance(content, list):
        parts = [p.get("text") if isinstance(p, dict) else p for p in content]
        texts = [p for p in parts if isinstance(p, str)]
        if len(texts) < len(parts):
            raise ValueError("content may hold only text parts.")
        return "".join(texts)
    return content
