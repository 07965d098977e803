"""Where replies to one prompt part, and what was different there: plain data, fit to cross a process.

Knows nothing of models or pages. Shapes: C candidate tokens, R replies that part, L layers, K experts of a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .trace import RoutingTrace

END = -1  # stands behind the tokens of a reply that the model itself has ended


@dataclass(frozen=True)
class Parting:
    """The first token at which `replies` differ; all of them have the same `position` tokens before it."""

    position: int
    replies: tuple[int, ...]


@dataclass(frozen=True)
class Difference:
    """A parting explained: the next-token distributions there (softmax of the logits, temperature 1) and the experts
    that processed the token before, from which those distributions were computed.

    token_ids int64 [C] and texts: the likeliest tokens of any of the replies, and those that were taken, likeliest
    first (mean over the replies). ends: whether such a token ends the reply. probs float32 [R, C]. taken: which
    candidate each reply took, -1 if it is not known (a reply that ended where no end token is a candidate).
    experts: per reply and layer those that worked, most probable first.
    """

    position: int
    replies: tuple[int, ...]
    token_ids: np.ndarray
    texts: tuple[str, ...]
    ends: tuple[bool, ...]
    probs: np.ndarray
    taken: tuple[int, ...]
    experts: tuple[tuple[tuple[int, ...], ...], ...]


@dataclass(frozen=True)
class Speed:
    """Decode speed of one request alone, at a k, as measured."""

    num_experts_per_tok: int
    tokens_per_s: float


def reply_of(trace: RoutingTrace) -> list[int]:
    """The trace's reply as `partings` reads it."""
    ids: list[int] = trace.token_ids[trace.prompt_tokens:].tolist()
    return [*ids, END] if trace.finish_reason == "stop" else ids


def partings(replies: Sequence[Sequence[int]]) -> list[Parting]:
    """Where token sequences part, in order of position: at most one fewer than there are replies.

    A reply that only goes further than another does not differ from it; END behind the tokens of a reply that the
    model ended makes that a difference. Four replies a b c, a b d, a e and a b c part at 1 (all) and at 2 (0, 1, 3).
    """
    found: list[Parting] = []

    def part(group: tuple[int, ...], position: int) -> None:
        while len(group) > 1:
            group = tuple(i for i in group if len(replies[i]) > position)
            branches: dict[int, list[int]] = {}
            for i in group:
                branches.setdefault(replies[i][position], []).append(i)
            position += 1
            if len(branches) > 1:
                found.append(Parting(position - 1, group))
                for branch in branches.values():
                    part(tuple(branch), position)
                return

    part(tuple(range(len(replies))), 0)
    return sorted(found, key=lambda p: (p.position, p.replies))


def only_one_used(a: Sequence[Sequence[int]], b: Sequence[Sequence[int]]) -> tuple[list[list[int]], list[list[int]]]:
    """Experts of each layer for one token under two settings -> per layer those that only the first used, and
    those that only the second used, ascending."""
    return ([sorted(set(x) - set(y)) for x, y in zip(a, b, strict=True)],
            [sorted(set(y) - set(x)) for x, y in zip(a, b, strict=True)])
