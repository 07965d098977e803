"""Which tokens go to which experts: by domain, by token, by place in the text, by kind of sentence.

All are one formula, N(E, g) / N(g): of the tokens of a group, the share that an expert worked on (Muennighoff et al.
2024, OLMoE, arXiv 2409.02060, equations 4 and 5; a group is a domain there, or one token of the vocabulary). An expert
that is like every other has K / E.

Shapes: T tokens, L layers, E experts, K experts a token, G groups.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from ..survey import LoyalTokens, RoutedText, Shares, Study
from .insights import SeenTokens, insights
from .router_analysis import one_hot

KINDS = ("question", "statement", "list", "code")
POSITIONS = ((0, "first token"), (1, "2nd to 4th"), (4, "5th to 16th"), (16, "17th to 64th"), (64, "beyond the 64th"))
LEAST_SEEN = 8  # occurrences: a rarer token's share would be a guess
TOP_TOKENS = 6  # of an expert, that are told
_LIST_ITEM = re.compile(r"\s*(?:[-*•]|\d{1,2}[.)])\s")
_SENTENCE = re.compile(r"[^.!?]*(?:[.!?]+[\"'”’)]*|$)\s*")


def group_shares(chosen: np.ndarray, labels: np.ndarray, num_groups: int) -> tuple[np.ndarray, np.ndarray]:
    """chosen bool [T, L, E], labels int [T] in [0, G) -> share float32 [G, L, E] = N(E, g) / N(g), N(g) int64 [G].

    A label of -1 belongs to no group; a group without tokens has shares of 0.
    """
    flat = chosen.reshape(len(chosen), -1).astype(np.float32)
    member = (labels == np.arange(num_groups)[:, None])  # [G, T]
    tokens = member.sum(1, dtype=np.int64)
    share = (member.astype(np.float32) @ flat) / np.maximum(tokens, 1)[:, None]
    return share.astype(np.float32).reshape(num_groups, *chosen.shape[1:]), tokens


def sentences(text: str, is_code: bool = False) -> list[tuple[int, str]]:
    """(end, kind) of each piece of `text`, in order: a line of a list, else sentences, by their last mark; code is one.

    "Why? It is so.\\n- a\\n" -> (5, question), (15, statement), (19, list).
    """
    if is_code:
        return [(len(text), "code")]
    found, at = [], 0
    for line in text.splitlines(keepends=True):
        if _LIST_ITEM.match(line):
            found.append((at + len(line), "list"))
        else:
            for match in _SENTENCE.finditer(line):
                if match.group().strip():
                    kind = "question" if "?" in match.group().strip()[-3:] else "statement"
                    found.append((at + match.end(), kind))
        at += len(line)
    return found or [(len(text), "statement")]


def position_labels(count: int) -> np.ndarray:
    """int64 [count]: for each place in a text the index of its group in POSITIONS."""
    return np.searchsorted([start for start, _ in POSITIONS], np.arange(count), side="right") - 1


def loyal_tokens(chosen: np.ndarray, token_ids: np.ndarray, piece_of: dict[int, str], least: int = LEAST_SEEN,
                 top: int = TOP_TOKENS) -> LoyalTokens:
    """Every expert's tokens with the largest N(x -> E) / N(x), among those seen at least `least` times.

    chosen bool [T, L, E], token_ids int64 [T]. Of equal shares the more frequent token comes first. With fewer such
    tokens than `top` there are as many as there are.
    """
    ids, inverse, seen = np.unique(token_ids, return_inverse=True, return_counts=True)
    often = np.flatnonzero(seen >= least)
    label = np.full(len(ids), -1)
    label[often] = np.arange(len(often))
    share, counts = group_shares(chosen, label[inverse], len(often))  # [X, L, E]
    rank = share + 1e-6 * (counts / max(1, counts.max(initial=0)))[:, None, None]
    best = np.argsort(-rank, axis=0, kind="stable")[:top]  # [n, L, E]
    return LoyalTokens(tuple(piece_of[int(i)] for i in ids[often]), counts, best.transpose(1, 2, 0),
                       np.take_along_axis(share, best, 0).transpose(1, 2, 0))


def study(texts: Sequence[RoutedText], num_experts: int, with_insights: bool = True) -> Study:
    """All of it over the texts read so far. Raises ValueError if there is none."""
    if not texts:
        raise ValueError("No text has been read yet; there is nothing to study.")
    chosen = one_hot(np.concatenate([t.selected_experts for t in texts]), num_experts)
    seen = seen_tokens(texts)
    positions = tuple(name for _, name in POSITIONS)
    shares = tuple(_shares(what, groups, chosen, labels) for what, groups, labels in (
        ("domain", seen.domains, seen.domain), ("position", positions, seen.position), ("kind", KINDS, seen.kind)))
    pieces = {int(i): p for t in texts for i, p in zip(t.token_ids, t.pieces, strict=True)}
    return Study(len(texts), len(chosen), texts[0].selected_experts.shape[2], num_experts, shares,
                 loyal_tokens(chosen, seen.token_ids, pieces), chosen.sum(0, dtype=np.int64),
                 tuple(insights(chosen, seen)) if with_insights else ())


def seen_tokens(texts: Sequence[RoutedText]) -> SeenTokens:
    """What every token of the texts is: its text, domain, topic, sentence, kind and place."""
    domains = tuple(dict.fromkeys(t.domain for t in texts))
    topics = tuple(dict.fromkeys(t.topic for t in texts if t.topic))
    lengths = [len(t.token_ids) for t in texts]
    sentence, kind, before = [], [], 0
    for text in texts:
        parts = sentences(text.text, text.domain == "code")
        at = np.minimum(np.searchsorted([end for end, _ in parts], text.ends), len(parts) - 1)
        sentence.append(before + at)
        kind.append(np.array([KINDS.index(name) for _, name in parts])[at])
        before += len(parts)
    spread = lambda values: np.repeat(np.array(values, dtype=np.int64), lengths)  # noqa: E731
    return SeenTokens(
        token_ids=np.concatenate([t.token_ids for t in texts]), text=spread(range(len(texts))),
        domain=spread([domains.index(t.domain) for t in texts]),
        topic=spread([topics.index(t.topic) if t.topic else -1 for t in texts]),
        sentence=np.concatenate(sentence), kind=np.concatenate(kind),
        position=np.concatenate([position_labels(n) for n in lengths]), domains=domains, topics=topics)


def studies(_: object, texts: Sequence[RoutedText], num_experts: int, with_insights: bool) -> Iterator[Study]:
    """`study` as a job."""
    yield study(texts, num_experts, with_insights)


def _shares(what: str, groups: tuple[str, ...], chosen: np.ndarray, labels: np.ndarray) -> Shares:
    share, tokens = group_shares(chosen, labels, len(groups))
    return Shares(what, groups, tokens, share)
