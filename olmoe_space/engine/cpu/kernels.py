"""The model by loops that Numba compiles for this machine's CPU: a small float32 model spends its time in between
PyTorch's operations, not in them (a decode step of olmoe-tiny is a thousand of them).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import Any

import numpy as np
import torch

from ...events import Routing
from ...model.structure import OlmoeWeights, weights_of
from ...request import RoutingPolicy
from ..kernels import BackendUnavailable, LaneRequest, Step, draw_and_feed
from ..routing import row_routing

LARGEST_HIDDEN = 512  # beyond it PyTorch's products are long enough to hide what lies between them
COLUMNS_A_THREAD = 32  # of a prompt's chunk, at least


class CpuLane:
    """One request's keys and values [L, G, capacity, D], how many tokens they hold, and its sampling's state."""

    def __init__(self, request: LaneRequest, weights: OlmoeWeights) -> None:
        shape = (len(weights.layers), weights.num_kv_heads, request.capacity, weights.head_dim)
        self.request = request
        self.keys, self.values = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self.length = 0
        self.logits = torch.empty(0)
        self.generator = torch.Generator().manual_seed(request.seed)

    def needs_room(self, tokens: int) -> None:
        """Raises ValueError if `tokens` more do not fit: the loops write where they are told."""
        if self.length + tokens > self.request.capacity:
            raise ValueError(f"A lane of {self.request.capacity} tokens cannot hold {self.length + tokens}.")

    def place(self, layer: int = 0, ahead: int = 0) -> list[int]:
        """What the loops ask of a lane: addresses, capacity, the place of the token `ahead` of the next."""
        return [self.keys[layer].ctypes.data, self.values[layer].ctypes.data, self.request.capacity,
                self.length + ahead]


class CpuKernels:
    """See `engine.kernels.Kernels`. The weights are read where PyTorch has them."""

    name = "Numba"

    def __init__(self, model: Any) -> None:
        weights = weights_of(model)
        _refuse(weights, model.config)
        try:
            from . import decode, parts, prefill
        except ImportError as error:
            raise BackendUnavailable(f"Numba cannot be imported ({error}). Install it as requirements.txt has it, or "
                                     "set OLMOE_BACKEND=torch.") from error
        self._decode, self._prefill, self._parts = decode.decode, prefill, parts
        self._weights = weights
        positions = torch.arange(model.config.max_position_embeddings)[None]
        with torch.inference_mode():
            self._cos, self._sin = (t[0].float().numpy() for t in weights.rotary(weights.embedding[:1], positions))
        self._embedding = weights.embedding.detach().numpy()
        self._table = np.array([[_address(getattr(layer, name)) for name in parts.FIELDS] for layer in weights.layers])
        self._sizes = np.array([
            self._embedding.shape[1], weights.layers[0].down_proj.shape[2], weights.num_heads * weights.head_dim,
            weights.num_kv_heads * weights.head_dim, weights.head_dim, weights.num_experts, weights.default_k,
            weights.norm_topk_prob, weights.lm_head.shape[0]])
        self._eps = np.float32(weights.norm_eps)
        self._clip = np.float32(np.inf if weights.clip_qkv is None else weights.clip_qkv)
        self._threads = torch.get_num_threads()
        self._helpers = ThreadPoolExecutor(self._threads, "cpu-kernels")

    def computes(self, routing: RoutingPolicy) -> bool:
        return routing.is_plain

    @contextmanager
    def lanes(self, requests: Sequence[LaneRequest]) -> Iterator[list[CpuLane]]:
        row_routing([r.routing for r in requests], self._weights.num_experts, self._weights.device)  # refuse a bad k
        yield [CpuLane(request, self._weights) for request in requests]

    def step(self, lanes: Sequence[CpuLane], stop_ids: frozenset[int]) -> list[Step | Exception]:
        return draw_and_feed(lanes, stop_ids, self._feed)

    def _feed(self, lanes: list[CpuLane], tokens: list[int]) -> list[Routing]:
        """One token a lane. Each thread takes some of the rows through all layers, so none waits for another within a
        step, which is too short for that."""
        for lane in lanes:
            lane.needs_room(1)
        size = -(-len(lanes) // self._threads)
        groups = [(lanes[at:at + size], tokens[at:at + size]) for at in range(0, len(lanes), size)]
        others = [self._helpers.submit(self._feed_rows, *group) for group in groups[1:]]
        routings = self._feed_rows(*groups[0])
        for other in others:
            routings += other.result()
        return routings

    def _feed_rows(self, lanes: list[CpuLane], tokens: list[int]) -> list[Routing]:
        ks = np.array([lane.request.k for lane in lanes])
        shape = (len(self._table), len(lanes))
        router_logits = np.empty((*shape, self._weights.num_experts), np.float32)
        selected, applied = np.zeros((*shape, ks.max()), np.uint8), np.zeros((*shape, ks.max()), np.float32)
        positions = [lane.length for lane in lanes]
        x = self._embedding[tokens]
        self._decode(self._table, self._sizes, self._eps, self._clip, x, self._cos[positions], self._sin[positions],
                     np.array([lane.place() for lane in lanes]), ks, self._weightings(lanes), router_logits, selected,
                     applied)
        logits = self._head(x)
        for lane, values in zip(lanes, logits, strict=True):
            lane.logits, lane.length = values, lane.length + 1
        return [Routing(np.ascontiguousarray(router_logits[None, :, b]),
                        np.ascontiguousarray(selected[None, :, b, :k]), np.ascontiguousarray(applied[None, :, b, :k]))
                for b, k in enumerate(ks)]

    def prefill(self, lane: CpuLane, token_ids: Sequence[int]) -> Routing:
        """Threads take the chunk's columns part by part: a layer's later parts wait for the keys of the earlier."""
        lane.needs_room(len(token_ids))
        tokens, layers, k = len(token_ids), len(self._table), lane.request.k
        router_logits = np.empty((layers, tokens, self._weights.num_experts), np.float32)
        selected, applied = np.empty((layers, tokens, k), np.uint8), np.empty((layers, tokens, k), np.float32)
        [weighting] = self._weightings([lane])
        cuts = self._cuts(tokens)
        ready = [[Event() for _ in range(layers)] for _ in cuts]

        def part(number: int) -> np.ndarray:
            try:
                return through_all_layers(number)
            finally:  # an error here must not leave the later parts waiting
                for event in ready[number]:
                    event.set()

        def through_all_layers(number: int) -> np.ndarray:
            start, stop = cuts[number]
            x, cos, sin = self._columns(lane, token_ids, start, stop)
            q = np.empty((self._sizes[self._parts.QUERIES], x.shape[1]), np.float32)
            for layer in range(layers):
                place = np.array(lane.place(layer, start))
                self._prefill.keys_and_values(self._table[layer], self._sizes, self._eps, self._clip, x, stop - start,
                                              cos, sin, place, q)
                ready[number][layer].set()
                for earlier in ready[:number]:
                    earlier[layer].wait()
                self._prefill.attention_and_experts(
                    self._table[layer], self._sizes, self._eps, x, stop - start, q, place, k, weighting,
                    router_logits[layer, start:stop], selected[layer, start:stop], applied[layer, start:stop])
            return x

        earlier_parts = [self._helpers.submit(part, number) for number in range(len(cuts) - 1)]
        last = part(len(cuts) - 1)
        for earlier_part in earlier_parts:
            earlier_part.result()
        lane.logits = self._head(np.ascontiguousarray(last[:, (tokens - 1) - cuts[-1][0]][None]))[0]
        lane.length += tokens
        return Routing(*(np.ascontiguousarray(array.swapaxes(0, 1)) for array in (router_logits, selected, applied)))

    def _cuts(self, tokens: int) -> list[tuple[int, int]]:
        """[start, stop) of each thread's tokens, whole vectors but for the last."""
        parts = max(1, min(self._threads, tokens // COLUMNS_A_THREAD))
        size = -(-tokens // (16 * parts)) * 16
        return [(start, min(start + size, tokens)) for start in range(0, tokens, size)]

    def _columns(self, lane: CpuLane, token_ids: Sequence[int], start: int, stop: int) -> tuple[np.ndarray, ...]:
        """Embeddings [H, P] and rotations [D, P] of some of a chunk's tokens; spare columns repeat the last token."""
        index = np.minimum(np.arange(start, start + -(-(stop - start) // 16) * 16), stop - 1)
        rows = (self._embedding[np.array(token_ids)[index]], self._cos[lane.length + index],
                self._sin[lane.length + index])
        return tuple(np.ascontiguousarray(row.T) for row in rows)

    def _weightings(self, lanes: Sequence[CpuLane]) -> np.ndarray:
        return np.array([self._parts.WEIGHTINGS.index(lane.request.routing.weighting) for lane in lanes])

    def _head(self, x: np.ndarray) -> torch.Tensor:
        """The stream after the last layer [B, H] -> logits [B, V]."""
        logits = np.empty((len(x), self._sizes[self._parts.VOCABULARY]), np.float32)
        head = self._weights.lm_head
        assert isinstance(head, torch.Tensor)  # 8 bits were refused
        self._parts.head(x, self._weights.final_norm.data_ptr(), head.data_ptr(), self._eps, logits.shape[1], logits)
        return torch.from_numpy(logits)


def _refuse(weights: OlmoeWeights, config: Any) -> None:
    """Raises BackendUnavailable for what the loops do not compute."""
    hidden, inner = config.hidden_size, config.intermediate_size
    reasons = {
        f"the model is on {weights.device.type}": weights.device.type != "cpu",
        f"its weights are {str(weights.dtype).removeprefix('torch.')}": weights.dtype != torch.float32,
        "its weights are int8": weights.in_int8,
        f"its experts use {config.hidden_act}": config.hidden_act != "silu",
        f"its hidden size is {hidden}": hidden > LARGEST_HIDDEN,
        "one of its widths is no multiple of 16": any(n % 16 for n in (hidden, inner, weights.head_dim)),
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if found:
        raise BackendUnavailable(
            f"The compiled CPU loops compute float32 models with SiLU experts, hidden size up to {LARGEST_HIDDEN} and "
            f"widths that are multiples of 16; {', '.join(found)}. Set OLMOE_BACKEND=torch, or leave it out.")


def _address(tensor: torch.Tensor | None) -> int:
    if tensor is None:
        return 0
    if not tensor.is_contiguous():
        raise BackendUnavailable("The compiled CPU loops read weights that lie in one piece; this model's do not. "
                                 "Set OLMOE_BACKEND=torch, or leave it out.")
    return tensor.data_ptr()
