"""One token's way through the model, step by step: what `lab.dataflow` measures and the page shows.

Plain numbers on the CPU, frozen and picklable, because on ZeroGPU they cross a process.
Shapes: T tokens up to the one walked, L layers, A heads, H hidden, E experts, K selected, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

MAX_TOKENS = 256  # of a text that is walked: each head's weights over all of them are sent to the page


@dataclass(frozen=True)
class Vector:
    """A vector of the model. size: its length. norm: Euclidean, over all of it. values: float32, the first ones."""

    size: int
    norm: float
    values: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> Vector:
        """All of `values` [size]."""
        return cls(values.size, float(np.linalg.norm(values.astype(np.float64))), values.astype(np.float32))

    def head(self, count: int) -> Vector:
        return replace(self, values=self.values[:count].copy())


@dataclass(frozen=True)
class ExpertWork:
    """One selected expert: contribution to the sum = weight × output. probability: the router's softmax value."""

    expert: int
    probability: float
    weight: float
    output: Vector

    @property
    def contribution_norm(self) -> float:
        return abs(self.weight) * self.output.norm


@dataclass(frozen=True)
class Selection:
    """The experts that the router would select at `k` for the same input, most probable first, and their mass: the
    sum of their probabilities."""

    k: int
    experts: tuple[int, ...]
    mass: float


@dataclass(frozen=True)
class LayerWalk:
    """One layer, for one token, in order of computation.

    stream_in + attention_output = stream_between; stream_between + experts_output = stream_out.
    attention: float32 [A, T], each row sums to 1: how much each head reads from each token so far.
    router_logits, probabilities: float32 [E]. selections: at k, and at what else was asked for.
    """

    stream_in: Vector
    attention_input: Vector
    attention: np.ndarray
    attention_output: Vector
    stream_between: Vector
    experts_input: Vector
    router_logits: np.ndarray
    probabilities: np.ndarray
    selections: tuple[Selection, ...]
    experts: tuple[ExpertWork, ...]
    experts_output: Vector
    stream_out: Vector

    @property
    def mass(self) -> float:
        """Sum of the selected experts' probabilities."""
        return float(sum(work.probability for work in self.experts))

    @property
    def entropy(self) -> float:
        """Of the router's probabilities, in nats."""
        p = self.probabilities[self.probabilities > 0].astype(np.float64)
        return float(-(p * np.log(p)).sum())

    def head(self, values: int, expert_values: int) -> LayerWalk:
        """With the first values of each vector only."""
        vectors: dict[str, Any] = {
            name: value.head(values) for name, value in vars(self).items() if isinstance(value, Vector)}
        experts = tuple(replace(work, output=work.output.head(expert_values)) for work in self.experts)
        return replace(self, experts=experts, **vectors)


@dataclass(frozen=True)
class Check:
    """That what is shown adds up to what the model computed. error: ‖shown - model‖ / ‖model‖, the largest found."""

    name: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return bool(self.error <= self.tolerance)  # False for NaN


@dataclass(frozen=True)
class Shape:
    """The model's sizes that a walk is told in."""

    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    hidden_size: int
    num_experts: int
    intermediate_size: int
    vocab_size: int
    default_k: int
    dtype: str


@dataclass(frozen=True)
class Walk:
    """One forward over a text, told for one of its tokens.

    pieces: the text of each token, "" where a character is not complete. token: the one walked.
    logits: float32 [V], after this token. top_pieces: the text of the most probable next tokens `top_ids`.
    seconds: what it took, forward and recording.
    """

    text: str
    token_ids: tuple[int, ...]
    pieces: tuple[str, ...]
    token: int
    k: int
    weighting: str
    shape: Shape
    embedding: Vector
    layers: tuple[LayerWalk, ...]
    final_norm: Vector
    logits: np.ndarray
    top_ids: tuple[int, ...]
    top_pieces: tuple[str, ...]
    checks: tuple[Check, ...]
    seconds: float

    def head(self, values: int = 64, expert_values: int = 8) -> Walk:
        """The same with the first values of each vector only: what a page can show, and small enough to send."""
        return replace(self, embedding=self.embedding.head(values), final_norm=self.final_norm.head(values),
                       layers=tuple(layer.head(values, expert_values) for layer in self.layers))
