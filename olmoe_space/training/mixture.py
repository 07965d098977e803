"""The mixture: batch number n of a stage, as a pure function of (seed, n, stage).

Tokens lie flat, one segment (a document, a conversation) after another; attention never crosses a segment. Because a
batch depends on nothing that came before it, a resumed run sees the very batches that an unbroken one would have.

Legend: T tokens in a batch, S segments at the most.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from . import conversations
from . import corpus as corpus_files
from .conversations import Turn
from .tokenizer import EOS_ID, MAX_POSITIONS

PROMPT_WEIGHT = 0.2  # what a prompt's tokens count in the loss; replies and plain text count 1
START_WITH_END = 0.3  # share of documents that begin with the end token, as text after text does
GO_ON = 0.3  # chance that a document's segment goes on with another document
CODE_CHUNK = 4000  # characters of a source file in one document

# Shares of a batch's tokens. Plain text: the judged figure is a mean over domains, not over the corpus' bytes.
DOMAIN_SHARES = {
    "stable": {"science": 0.22, "stories": 0.24, "web": 0.17, "math": 0.18, "dialogue": 0.08, "code": 0.11},
    "decay": {"science": 0.20, "stories": 0.21, "web": 0.20, "math": 0.19, "dialogue": 0.10, "code": 0.10},
}
OWN_SHARES = {
    "own:smalltalk": 0.15, "own:world": 0.15, "own:words": 0.12, "own:numbers": 0.11, "own:python": 0.08,
    "own:stories": 0.13, "own:explain": 0.08, "own:tasks": 0.07,
}  # fmt: skip
EXCHANGES_SHARE = 0.24  # of the exchanges, for all files beside this module together
CHAT_SOURCE_WEIGHTS = {  # what a source's conversations count, against 1 for each of the others; 0 leaves it out
    "personality-chat": 3, "own-basics": 3, "own-smalltalk": 2, "own-arithmetic": 3, "oewn": 5, "wikipedia": 4,
    "combined": 3, "mbpp": 3, "self-instruct-seed": 2, "synthetic-persona-chat": 2, "factbook": 3, "gsm8k": 2,
    "sgd": 2, "medquad": 2, "african-storybook": 2, "openstax-biology": 1.5, "tldr": 1,
    "chatterbot": 0.5, "fairytaleqa": 1, "taskmaster-4": 0.5, "mathematics_dataset": 0.5, "openstax-statistics": 0.2,
}  # fmt: skip
STAGES = {  # (plain text, exchanges, chat corpus)
    "stable": (0.78, 0.14, 0.08),
    "decay": (0.58, 0.30, 0.12),
}


@dataclass(frozen=True)
class Batch:
    """One step's tokens."""

    tokens: np.ndarray  # [T] uint16
    targets: np.ndarray  # [T] uint16, the next token of the segment
    weights: np.ndarray  # [T] float32, what the target counts in the loss; 0 at a segment's end
    positions: np.ndarray  # [T] uint16, from 0 in every segment
    starts: np.ndarray  # [S + 1] int32, where segments start, then T as often as it takes to fill it


@dataclass
class Documents:
    """Tokenised documents of one kind, end to end, each ending in the end token."""

    tokens: np.ndarray  # [all tokens] uint16
    weights: np.ndarray | None  # [all tokens] float16; None where every token counts 1
    bounds: np.ndarray  # [documents + 1] int64
    is_text: bool  # plain text may follow plain text in one segment; a conversation stands alone

    def draw(self, rng: random.Random) -> tuple[np.ndarray, np.ndarray]:
        """A document at random, at most MAX_POSITIONS tokens of it, with the weights of its tokens."""
        number = rng.randrange(len(self.bounds) - 1)
        start, end = int(self.bounds[number]), int(self.bounds[number + 1])
        if end - start > MAX_POSITIONS:
            if self.is_text and rng.random() < 0.5:
                start = rng.randrange(start, end - MAX_POSITIONS)
            end = start + MAX_POSITIONS
        tokens = self.tokens[start:end]
        weights = np.ones(len(tokens), np.float32) if self.weights is None else self.weights[start:end]
        return tokens, weights

    def segment(self, rng: random.Random) -> tuple[np.ndarray, np.ndarray]:
        """One document or, for plain text, now and then several in a row."""
        tokens, weights = self.draw(rng)
        if not self.is_text:
            return tokens, weights
        parts = [tokens]
        if rng.random() < START_WITH_END:
            parts.insert(0, np.array([EOS_ID], np.uint16))
        while sum(map(len, parts)) < MAX_POSITIONS and rng.random() < GO_ON:
            parts.append(self.draw(rng)[0])
        tokens = np.concatenate(parts)[:MAX_POSITIONS]
        return tokens, np.ones(len(tokens), np.float32)


@dataclass
class Exchanges:
    """Lines of one exchange file, expanded anew at every draw; half of what is joined to one comes from any file."""

    lines: list[dict]
    everyone: list[list[dict]]  # the lines of all files
    encode: Callable[[str], np.ndarray]

    def segment(self, rng: random.Random) -> tuple[np.ndarray, np.ndarray]:
        first = True

        def draw() -> list[Turn]:
            nonlocal first
            lines = self.lines if first or rng.random() < 0.5 else rng.choice(self.everyone)
            first = False
            return conversations.expand(rng.choice(lines), rng)

        return encode_turns(conversations.converse(draw, rng), self.encode)


@dataclass
class Encoder:
    """Text -> ids, remembering short pieces (prompts and replies come again and again)."""

    tokenizer: Tokenizer
    known: dict[str, np.ndarray] = field(default_factory=dict)

    def __call__(self, text: str) -> np.ndarray:
        ids = self.known.get(text)
        if ids is None:
            ids = np.array(self.tokenizer.encode(text).ids, np.uint16)
            if len(self.known) < 400_000:
                self.known[text] = ids
        return ids


def encode_turns(turns: Iterable[Turn], encode: Callable[[str], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """A conversation's ids [n] and weights [n], exactly as the chat template would write it; at most MAX_POSITIONS."""
    pieces = conversations.render(list(turns))
    return join_pieces([(encode(text), is_reply) for text, is_reply in pieces])


def join_pieces(pieces: list[tuple[np.ndarray, bool]]) -> tuple[np.ndarray, np.ndarray]:
    """Encoded pieces in a row, replies closed by the end token: ids [n] and weights [n]."""
    parts = [np.append(ids, np.uint16(EOS_ID)) if is_reply else ids for ids, is_reply in pieces]
    values = [1.0 if is_reply else PROMPT_WEIGHT for _, is_reply in pieces]
    weights = np.repeat(np.array(values, np.float32), [len(part) for part in parts])
    return np.concatenate(parts)[:MAX_POSITIONS], weights[:MAX_POSITIONS]


class Mixture:
    """Every source with its share of the tokens per stage."""

    def __init__(self, sources: dict[str, Documents | Exchanges], shares: dict[str, dict[str, float]], seed: int):
        self.sources, self.seed = sources, seed
        rng = random.Random(f"{seed}/lengths")
        lengths = {name: sum(len(s.segment(rng)[0]) for _ in range(64)) / 64 for name, s in sources.items()}
        # How often a source is drawn: its share of tokens over the tokens that one draw gives.
        self.odds = {stage: {n: share / lengths[n] for n, share in of.items()} for stage, of in shares.items()}

    def batch(self, number: int, stage: str, tokens: int, segments: int) -> Batch:
        """Batch `number` of `stage`, `tokens` long, of at most `segments` segments."""
        rng = random.Random(f"{self.seed}/{number}/{stage}")
        names = list(self.odds[stage])
        bounds = list(accumulate(self.odds[stage].values()))
        ids: list[np.ndarray] = []
        weights: list[np.ndarray] = []
        lengths: list[int] = []
        left = tokens
        while left:
            name = rng.choices(names, cum_weights=bounds)[0]
            piece, piece_weights = self.sources[name].segment(rng)
            piece, piece_weights = piece[:left], piece_weights[:left]
            if len(lengths) == segments:
                raise ValueError(f"{segments} segments do not fill {tokens} tokens: the sources' texts are too short")
            ids.append(piece)
            weights.append(piece_weights)
            lengths.append(len(piece))
            left -= len(piece)
        return assemble(np.concatenate(ids), np.concatenate(weights), np.array(lengths), segments)


def assemble(tokens: np.ndarray, weights: np.ndarray, lengths: np.ndarray, segments: int) -> Batch:
    """Segments laid end to end -> a batch with targets, positions and bounds."""
    ends = np.cumsum(lengths)
    starts = np.full(segments + 1, len(tokens), np.int32)
    starts[0] = 0
    starts[1 : len(ends) + 1] = ends
    targets, target_weights = np.roll(tokens, -1), np.roll(weights, -1).astype(np.float32)
    target_weights[ends - 1] = 0.0
    positions = np.arange(len(tokens)) - np.repeat(ends - lengths, lengths)
    return Batch(tokens, targets, target_weights, positions.astype(np.uint16), starts)


def chunks(text: str, size: int) -> Iterator[str]:
    """`text` in pieces of about `size` characters that end with a line."""
    start = 0
    while start < len(text):
        end = text.find("\n", start + size)
        end = len(text) if end < 0 else end + 1
        yield text[start:end]
        start = end


def encode_texts(tokenizer: Tokenizer, texts: list[str]) -> Documents:
    """Plain documents."""
    encodings = tokenizer.encode_batch(texts)
    parts = [np.array([*e.ids, EOS_ID], np.uint16) for e in encodings if e.ids]
    return Documents(np.concatenate(parts), None, bounds_of(parts), True)


def encode_chats(tokenizer: Tokenizer, chats: list[list[dict[str, str]]]) -> Documents:
    """Conversations of the chat corpus."""
    rendered = [conversations.render([(m["role"], m["content"]) for m in chat]) for chat in chats]
    texts = sorted({text for pieces in rendered for text, _ in pieces})
    encodings = tokenizer.encode_batch(texts)
    ids = {text: np.array(e.ids, np.uint16) for text, e in zip(texts, encodings, strict=True)}
    pairs = [join_pieces([(ids[text], is_reply) for text, is_reply in pieces]) for pieces in rendered]
    tokens = [tokens for tokens, _ in pairs]
    return Documents(np.concatenate(tokens), np.concatenate([w for _, w in pairs]), bounds_of(tokens), False)


def bounds_of(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)


def load_domain(domain: str, corpus: Path, stdlib: Path | None, tokenizer_json: str, limit: int | None) -> Documents:
    """One domain of plain text, tokenised; `code` is prose about programming and the standard library."""
    texts = list(corpus_files.pretrain_texts(corpus, domain))[:limit]
    if domain == "code":
        for text in list(corpus_files.source_code(stdlib))[:limit]:
            texts += chunks(text, CODE_CHUNK)
    return encode_texts(Tokenizer.from_str(tokenizer_json), texts)


def load_chats(corpus: Path, tokenizer_json: str, limit: int | None) -> dict[str, Documents]:
    """The chat corpus by source, tokenised."""
    by_source: dict[str, list] = {}
    for source, messages in corpus_files.chats(corpus):
        if CHAT_SOURCE_WEIGHTS.get(source, 1) and messages[-1]["role"] == "assistant":
            by_source.setdefault(source, []).append(messages)
    tokenizer = Tokenizer.from_str(tokenizer_json)
    return {f"chat:{source}": encode_chats(tokenizer, chats[:limit]) for source, chats in by_source.items()}


def normalised(weights: dict[str, float], total: float) -> dict[str, float]:
    whole = sum(weights.values())
    return {name: total * weight / whole for name, weight in weights.items()}


def load(
    corpus: Path,
    tokenizer: Tokenizer,
    seed: int,
    stdlib: Path | None = None,
    limit: int | None = None,
    processes: int = 1,
) -> Mixture:
    """The whole mixture, tokenised. `limit` keeps that many documents of each source (for rehearsals and tests)."""
    text = tokenizer.to_str()
    domain_jobs = [partial(load_domain, d, corpus, stdlib, text, limit) for d in corpus_files.DOMAINS]
    chat_job = partial(load_chats, corpus, text, limit)
    if processes > 1:
        with ProcessPoolExecutor(processes, mp_context=get_context("fork")) as pool:
            chat_future = pool.submit(chat_job)
            domain_futures = [pool.submit(job) for job in domain_jobs]
            domains, chats = [f.result() for f in domain_futures], chat_future.result()
    else:
        domains, chats = [job() for job in domain_jobs], chat_job()
    encode = Encoder(tokenizer)
    files = corpus_files.exchange_files(corpus)
    exchanges = {name: Exchanges(lines, list(files.values()), encode) for name, lines in files.items()}

    sources: dict[str, Documents | Exchanges] = {**chats, **exchanges}
    sources |= {f"text:{domain}": documents for domain, documents in zip(corpus_files.DOMAINS, domains, strict=True)}
    added = {name: float(len(e.lines)) for name, e in exchanges.items() if name.startswith("exchanges:")}
    exchange_weights = {name: OWN_SHARES.get(name, 0.05) for name in exchanges if name not in added}
    if added:
        # By lines, but no file above a third more than its even part: a long list of one kind must not drown others.
        even = sum(added.values()) / len(added)
        added = normalised({name: min(lines, 1.33 * even) for name, lines in added.items()}, EXCHANGES_SHARE)
        exchange_weights = normalised(exchange_weights, 1 - EXCHANGES_SHARE) | added
    chat_weights = {name: CHAT_SOURCE_WEIGHTS.get(name.removeprefix("chat:"), 1.0) for name in chats}
    shares = {
        stage: normalised({f"text:{d}": share for d, share in DOMAIN_SHARES[stage].items()}, plain)
        | normalised(exchange_weights, own)
        | normalised(chat_weights, chat)
        for stage, (plain, own, chat) in STAGES.items()
    }
    return Mixture(sources, shares, seed)


_SHARED: Mixture | None = None  # what forked workers read; set before they are made


def _batch(number: int, stage: str, tokens: int, segments: int) -> Batch:
    assert _SHARED is not None
    return _SHARED.batch(number, stage, tokens, segments)


class Feeder:
    """Batches ahead of need, made by worker processes; with no workers, made on the spot.

    A batch is asked for `ahead` steps early with the stage of that moment, so a stage's first batches come that much
    late. Make it before anything touches CUDA: the workers are forks.
    """

    def __init__(self, mixture: Mixture, tokens: int, segments: int, workers: int, ahead: int = 48):
        global _SHARED
        self.mixture, self.tokens, self.segments = mixture, tokens, segments
        self.ahead = ahead if workers else 0
        self.waiting: dict[int, Future[Batch]] = {}
        self.pool = None
        if workers:
            _SHARED = mixture
            self.pool = ProcessPoolExecutor(workers, mp_context=get_context("fork"))
            list(self.pool.map(abs, range(workers * 4)))  # fork now

    def get(self, number: int, stage: str) -> Batch:
        if self.pool is None:
            return self.mixture.batch(number, stage, self.tokens, self.segments)
        for wanted in range(number, number + self.ahead):
            if wanted not in self.waiting:
                self.waiting[wanted] = self.pool.submit(_batch, wanted, stage, self.tokens, self.segments)
        return self.waiting.pop(number).result()

    def close(self) -> None:
        if self.pool is not None:
            self.pool.shutdown(wait=False, cancel_futures=True)
