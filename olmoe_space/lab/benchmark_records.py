"""What a benchmark is asked for, and what it finds."""

from __future__ import annotations

from dataclasses import dataclass

from .agreement import Agreement
from .stock import Recipe


@dataclass(frozen=True)
class Plan:
    ks: tuple[int, ...]
    batches: tuple[int, ...]
    prefill: tuple[int, ...]  # prompt lengths in tokens
    chats: int  # at once, from as many threads
    new_tokens: int
    repeats: int
    recipes: tuple[Recipe, ...]  # of stock generate; none: stock is left out
    agreement: int = 0  # new tokens of each row compared with stock's; 0: none are

    def __post_init__(self) -> None:
        if self.new_tokens < 3:
            raise ValueError(f"--new-tokens must be at least 3, to have steps between the first and the last token; "
                             f"got {self.new_tokens}.")
        if self.agreement < 0:
            raise ValueError(f"--agreement must be at least 0; got {self.agreement}.")
        for name in ("ks", "batches", "prefill", "chats", "repeats"):
            value = getattr(self, name)
            if any(v < 1 for v in (value if isinstance(value, tuple) else [value])):
                raise ValueError(f"--{name.removesuffix('es').removesuffix('s')} must be at least 1; got {value}.")


@dataclass(frozen=True)
class Decode:
    """Tokens a second of all rows together. context: tokens in a row's cache, the mean over the steps measured."""

    weights: str  # as ModelInfo.dtype says it
    batch: int
    k: int | None  # None: rows of mixed k
    context: float
    tokens_per_s: float
    experts_touched: float  # a step, summed over layers
    bytes_per_step: float
    limit_tokens_per_s: float
    stock_tokens_per_s: dict[str, float]  # by recipe; 0: it does not fit the memory that there is
    stock_first_token_s: dict[str, float]
    peak_bytes: int  # of device memory while ours ran; on a CPU of the process

    @property
    def share_of_limit(self) -> float:
        return self.tokens_per_s / self.limit_tokens_per_s


@dataclass(frozen=True)
class Prefill:
    """seconds: from the prompt's tokens until all have gone through. chunk_s: the slowest chunk, which is how long
    Stop and other chats wait at most. first_token_s: from the prompt's text until the reply's first token is told."""

    tokens: int
    k: int
    seconds: float
    chunk_s: float
    first_token_s: float
    stock_seconds: float | None


@dataclass(frozen=True)
class Tracing:
    """The engine with its events against the steps of its kernels alone: what it costs that somebody watches."""

    k: int
    tokens_per_s: float
    kernels_tokens_per_s: float

    @property
    def cost(self) -> float:
        return 1 - self.tokens_per_s / self.kernels_tokens_per_s


@dataclass(frozen=True)
class Chats:
    """So many streams open at once, each in a thread of its own as the page has them."""

    chats: int
    k: int
    tokens_per_s: float
    one_tokens_per_s: float


Record = Decode | Prefill | Tracing | Chats | Agreement
