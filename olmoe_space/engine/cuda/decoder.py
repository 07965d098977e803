"""One decode step of a batch of slots, launched kernel by kernel or replayed as a CUDA graph.

A layer is six launches for one row (norm and qkv; QK-norm, RoPE, cache and attention; output and residual; norm and
router; gate, up and SiLU; down and residual) and seven for more, whose norm is a launch of its own. Everything that
differs between rows and steps (k, weighting, sampling, seed, place, token, which slot is in which row) lies on the
device, so one graph a bucket of rows serves all. Knows nothing of requests or text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
import triton
from torch import Tensor

from ...model.int8 import Int8Weight, Weight
from ...model.structure import LayerWeights, OlmoeWeights
from ..cache import KeyValueCache
from .buffers import CHUNKS, SHARES, SPLIT, Batch, new_batch, new_slots
from .kernels import attention, draw, many_rows, one_row, router
from .tiles import MANY_ROWS, MANY_ROWS_INT8, ONE_ROW, ONE_ROW_INT8, Tile

BUCKETS = (1, 2, 4, 8, 16, 32)  # rows a graph is captured for; a batch takes the smallest that holds it
WEIGHTING_CODE = {"raw": 0, "renormalised": 1, "mass_preserving": 2}  # as kernels/router.py has them
LOGIT_BITS_UNUSED = {torch.float32: 0, torch.bfloat16: 16, torch.float16: 13}  # of float32's 32
ROUTER_ROWS = 2
PROGRAMS = 4096  # of attention, that a step of few rows launches at most


def unsupported(weights: OlmoeWeights) -> str:
    """Why these kernels cannot compute this model; "" if they can."""
    layer = weights.layers[0]
    if weights.in_int8 and any(matrix.shape[-1] % 16 for matrix in (layer.q_proj, layer.o_proj, layer.down_proj)):
        return "its rows of int8 weights are not a multiple of 16, which are loaded at once"
    if layer.q_bias is not None or weights.clip_qkv is not None:
        return "its attention has biases or clips its queries, which no published OLMoE does"
    if not isinstance(weights.activation, torch.nn.SiLU) and "silu" not in type(weights.activation).__name__.lower():
        return "its experts use another activation than SiLU"
    if weights.head_dim & (weights.head_dim - 1) or weights.head_dim < 16:
        return f"its heads are {weights.head_dim} wide, not a power of two of at least 16"
    return ""


@dataclass(frozen=True)
class Settings:
    """A slot's own: see LaneRequest."""

    k: int
    weighting: str = "raw"
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Traced:
    """What a step did, on the CPU: tokens [B], router_logits float32 [B, L, E], and by rank: experts int32 [B, L, E],
    weights float32 [B, L, E], 0 past a row's k."""

    tokens: Tensor
    router_logits: Tensor
    experts: Tensor
    weights: Tensor


class Decoder:
    """Decodes in `slots` slots of `capacity` tokens. Weights are used where they lie; keys and values are its own."""

    def __init__(self, weights: OlmoeWeights, slots: int, capacity: int, max_rows: int = BUCKETS[-1]) -> None:
        if reason := unsupported(weights):
            raise ValueError(f"The Triton kernels cannot compute this model: {reason}.")
        self.weights, self.capacity = weights, capacity
        self.cache = KeyValueCache(weights, slots, capacity)
        self.slots = new_slots(weights, slots)
        self._tiles = (ONE_ROW_INT8, MANY_ROWS_INT8) if weights.in_int8 else (ONE_ROW, MANY_ROWS)
        self.router_rows = ROUTER_ROWS
        self._on_gpu = weights.device.type == "cuda"
        overlaps = self._on_gpu and torch.cuda.get_device_capability(weights.device) >= (9, 0)
        self._overlap = {"OVERLAP": True, "launch_pdl": True} if overlaps else {"OVERLAP": False}
        self._sms = torch.cuda.get_device_properties(weights.device).multi_processor_count if self._on_gpu else 2
        places = torch.arange(capacity, device=weights.device).unsqueeze(0)
        cos, sin = weights.rotary(weights.embedding[:1], places)
        self._cos, self._sin = cos[0].contiguous(), sin[0].contiguous()  # [capacity, D]
        self._batches = {rows: new_batch(weights, rows, capacity) for rows in BUCKETS if rows <= max_rows}
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._seated: dict[int, list[int]] = {}

    @property
    def buckets(self) -> tuple[int, ...]:
        """The sizes of batch that a graph is captured for."""
        return tuple(self._batches)

    def settle(self, slot: int, settings: Settings, held: int, logits: Tensor) -> None:
        """A slot whose cache holds `held` tokens, `logits` [V] after the last of them, goes on with these settings."""
        s = self.slots
        for tensor, value in ((s.k, settings.k), (s.weighting, WEIGHTING_CODE[settings.weighting]),
                              (s.temperature, settings.temperature), (s.top_p, settings.top_p),
                              (s.seed, settings.seed), (s.forced, -1), (s.position, held)):
            tensor[slot] = value
        s.logits[held % 2, slot] = logits

    def force(self, slot: int, token: int) -> None:
        """Feed this token at the next steps instead of drawing one; -1 draws again."""
        self.slots.forced[slot] = token

    def logits(self, slot: int, held: int | None = None) -> Tensor:
        """What followed the slot's last token, or the one before it if that is how many were `held`: [V], a view."""
        held = self.cache.lengths[slot] if held is None else held
        return self.slots.logits[held % 2, slot]

    def step(self, slots: Sequence[int]) -> Callable[[], Traced]:
        """Begin to draw and feed one token in each of these slots -> what waits for it and says what happened.

        The next step may be begun before that is called. Raises ValueError for a full slot.
        """
        rows = self.run(slots)
        landing = torch.empty(self._batches[rows].trace.shape, dtype=torch.int32, pin_memory=self._on_gpu)
        landing.copy_(self._batches[rows].trace, non_blocking=True)
        done = torch.cuda.Event() if self._on_gpu else None
        if done is not None:
            done.record()

        @cache  # every row of the batch asks
        def traced() -> Traced:
            if done is not None:
                done.synchronize()
            return self._traced(landing[:len(slots)])

        return traced

    def run(self, slots: Sequence[int]) -> int:
        """`step` that tells nothing -> the bucket it took."""
        for slot in slots:
            if self.cache.lengths[slot] >= self.capacity:
                raise ValueError(f"Slot {slot} is full: it holds all of its {self.capacity} tokens.")
        rows = self._launch(list(slots))
        self.cache.advance(list(slots), 1)
        return rows

    def capture(self, rows: int) -> None:
        """Compile and capture the step of a bucket, on no slots, so that nothing changes."""
        batch = self._batches[rows]
        batch.slots.fill_(-1)
        self._seated.pop(rows, None)
        self.launch_all(batch)  # compiles
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self.launch_all(batch)
        self._graphs[rows] = graph

    def _launch(self, slots: list[int]) -> int:
        """Launch a step -> the bucket it took."""
        rows = next((r for r in self._batches if r >= len(slots)), 0)
        if not rows or not slots:
            raise ValueError(f"A step takes from 1 to {max(self._batches)} slots; got {len(slots)}.")
        if self._on_gpu and rows not in self._graphs:
            self.capture(rows)
        batch = self._batches[rows]
        if self._seated.get(rows) != slots:
            batch.slots.copy_(torch.tensor(slots + [-1] * (rows - len(slots)), dtype=torch.int32))
            self._seated[rows] = slots
        if self._on_gpu:
            self._graphs[rows].replay()
        else:
            self.launch_all(batch)
        return rows

    def _traced(self, trace: Tensor) -> Traced:
        layers, experts = len(self.weights.layers), self.weights.num_experts
        parts = trace[:, :-1].reshape(-1, layers, 3, experts)
        return Traced(trace[:, -1], parts[:, :, 0].contiguous().view(torch.float32), parts[:, :, 1],
                      parts[:, :, 2].contiguous().view(torch.float32))

    def launch_all(self, batch: Batch) -> None:
        self.launch_draw(batch)
        for index, layer in enumerate(self.weights.layers):
            self.launch_qkv(batch, layer)
            self.launch_attention(batch, layer, index)
            self.launch_output(batch, layer)
            self.launch_router(batch, layer, index)
            self.launch_gate_up(batch, layer)
            self.launch_down(batch, layer)
        self.launch_head(batch)

    def launch_draw(self, batch: Batch) -> None:
        w, s = self.weights, self.slots
        vocabulary, hidden = w.embedding.shape
        chunk = triton.next_power_of_2(triton.cdiv(vocabulary, CHUNKS))
        draw.draw[(triton.cdiv(vocabulary, chunk), len(batch.slots))](
            s.logits, batch.slots, s.forced, s.temperature, s.top_p, s.seed, s.position, s.token, batch.chunk_tops,
            batch.chunk_firsts, batch.draw_arrived, batch.logits_at, w.embedding, batch.stream, batch.trace,
            batch.trace.shape[1], s.logits.shape[1], vocabulary, hidden, SHIFT=LOGIT_BITS_UNUSED[w.dtype],
            BLOCK=min(8192, triton.next_power_of_2(vocabulary)), CHUNK=chunk, CHUNKS=CHUNKS,
            COLUMNS=triton.next_power_of_2(hidden), num_warps=16, **self._overlap)

    def launch_qkv(self, batch: Batch, layer: LayerWeights) -> None:
        self._project(batch, batch.stream, layer.attention_norm, (layer.q_proj, layer.k_proj, layer.v_proj), batch.qkv,
                      "qkv")

    def launch_attention(self, batch: Batch, layer: LayerWeights, index: int) -> None:
        w = self.weights
        splits, rows = batch.parts.shape[2], len(batch.slots)
        at_once = min(splits, max(4, PROGRAMS // (w.num_heads * rows)))
        attention.attention[(w.num_heads, at_once, rows)](
            batch.qkv, layer.q_norm, layer.k_norm, self._cos, self._sin, self.cache.keys, self.cache.values,
            batch.slots, self.slots.position, batch.parts, batch.tops, batch.attention_arrived, batch.attended,
            self.capacity, index * self.cache.keys.stride(0), w.head_dim ** -0.5, w.norm_eps, HEADS=w.num_heads,
            KV_HEADS=w.num_kv_heads, HEAD=w.head_dim, QUERIES=triton.next_power_of_2(w.num_heads * w.head_dim),
            KEYS=triton.next_power_of_2(w.num_kv_heads * w.head_dim), SPLIT=SPLIT, MAX_SPLITS=splits,
            SPLITS=triton.next_power_of_2(splits), num_warps=4, **self._overlap)

    def launch_output(self, batch: Batch, layer: LayerWeights) -> None:
        self._project(batch, batch.attended, None, (layer.o_proj,), batch.stream, "output")

    def launch_router(self, batch: Batch, layer: LayerWeights, index: int) -> None:
        w, rows = self.weights, len(batch.slots)
        router.route[(triton.cdiv(w.num_experts, self.router_rows), rows)](
            batch.stream, layer.experts_norm, layer.router, batch.slots, self.slots.k, self.slots.weighting,
            batch.normed, batch.router_logits, batch.weight_of, batch.touched, batch.count,
            batch.router_arrived, batch.trace.view(torch.float32), batch.trace,
            index * 3 * w.num_experts, batch.trace.shape[1], rows, w.embedding.shape[1], w.norm_eps,
            NUM_EXPERTS=w.num_experts, DEFAULT_K=w.default_k, NORM_TOPK_PROB=w.norm_topk_prob, BATCH=rows,
            ROWS=self.router_rows, EXPERTS=triton.next_power_of_2(w.num_experts),
            COLUMNS=triton.next_power_of_2(w.embedding.shape[1]), num_warps=4, **self._overlap)

    def launch_gate_up(self, batch: Batch, layer: LayerWeights) -> None:
        rows, (hidden, inner) = len(batch.slots), layer.down_proj.shape[1:]
        tile = self._tiles[rows > 1].gate_up
        most = self.weights.num_experts * triton.cdiv(inner, tile.rows)
        grid = (min(tile.per_sm * self._sms, most),)
        if rows == 1:
            one_row.gate_up[grid](
                batch.stream, layer.experts_norm, *_parts(layer.gate_up_proj, rows), batch.touched, batch.count,
                batch.weight_of, batch.inner, hidden, inner, self.weights.norm_eps, ROWS=tile.rows,
                COLUMNS=triton.next_power_of_2(hidden), num_warps=tile.warps, **self._overlap)
        else:
            many_rows.gate_up[grid](
                batch.normed, *_parts(layer.gate_up_proj, rows), batch.touched, batch.count, batch.weight_of,
                batch.inner, rows, hidden, inner, self.weights.num_experts, BATCH=max(16, rows), ROWS=tile.rows,
                COLUMNS=_step(tile, hidden), num_warps=tile.warps, num_stages=tile.stages,
                OVERLAP=False)  # overlapped, its programs settle unevenly on the multiprocessors: 165 us for 125

    def launch_down(self, batch: Batch, layer: LayerWeights) -> None:
        rows, (hidden, inner) = len(batch.slots), layer.down_proj.shape[1:]
        tile = self._tiles[rows > 1].down
        programs = triton.cdiv(hidden, tile.rows)
        if rows == 1:
            one_row.down[(programs,)](
                batch.inner, *_parts(layer.down_proj, rows), batch.touched, batch.count, batch.stream, hidden, inner,
                ROWS=tile.rows, COLUMNS=triton.next_power_of_2(inner), num_warps=tile.warps, **self._overlap)
        else:
            columns = max(_step(tile, inner), triton.next_power_of_2(triton.cdiv(inner, SHARES)))
            many_rows.down[(programs, triton.cdiv(inner, columns))](
                batch.inner, *_parts(layer.down_proj, rows), batch.touched, batch.count, batch.slots, batch.stream,
                batch.down_parts, batch.down_arrived, rows, hidden, inner, BATCH=max(16, rows), ROWS=tile.rows,
                COLUMNS=columns, num_warps=tile.warps, num_stages=tile.stages, **self._overlap)

    def launch_head(self, batch: Batch) -> None:
        self._project(batch, batch.stream, self.weights.final_norm, (self.weights.lm_head,), self.slots.logits, "head")

    def _project(self, batch: Batch, x: Tensor, norm: Tensor | None, matrices: tuple[Weight, ...], out: Tensor,
                 name: str) -> None:
        """out (+)= matrices @ norm(x): added to where it is the stream, by slot where it is the logits."""
        slots = batch.logits_at if out is self.slots.logits else batch.slots
        rows, size = len(batch.slots), matrices[0].shape[1]
        tile: Tile = getattr(self._tiles[rows > 1], name)
        if len(matrices) > 1:  # no tile reaches from one matrix into the next
            tile = replace(tile, rows=min(tile.rows, self.weights.head_dim))
        heights = [m.shape[0] for m in matrices] + [0] * (3 - len(matrices))
        values, scales = zip(*(_parts(m, rows) for m in (*matrices, *[matrices[0]] * (3 - len(matrices)))), strict=True)
        items = triton.cdiv(sum(heights), tile.rows)
        flags = {"ADD": out is batch.stream, "BY_SLOT": out is self.slots.logits}
        if rows == 1:
            one_row.project[(min(items, tile.per_sm * self._sms or items),)](
                x, norm if norm is not None else x, *values, *scales, out, slots, *heights, size,
                self.weights.norm_eps, NORM=norm is not None, **flags, ROWS=tile.rows,
                COLUMNS=triton.next_power_of_2(size), num_warps=tile.warps, **self._overlap)
            return
        if norm is not None:
            many_rows.norm_rows[(rows,)](x, norm, batch.normed, size, self.weights.norm_eps,
                                         COLUMNS=triton.next_power_of_2(size), num_warps=4, **self._overlap)
            x = batch.normed
        many_rows.project[(items,)](
            x, *values, *scales, out, slots, rows, *heights, size, **flags, BATCH=max(16, rows),
            ROWS=tile.rows, COLUMNS=_step(tile, size), num_warps=tile.warps, num_stages=tile.stages, **self._overlap)


def _parts(weight: Weight, rows: int) -> tuple[Tensor, Tensor | None]:
    """A matrix where it lies, and its scales: None if it is not in 8 bits. `one_row` takes four int8 as one int32."""
    if not isinstance(weight, Int8Weight):
        return weight, None
    return weight.values.view(torch.int32) if rows == 1 else weight.values, weight.scale


def _step(tile: Tile, size: int) -> int:
    """Columns a step: the tile's, or fewer where the matrix has no more; a tensor core takes at least 16."""
    return max(16, min(tile.columns, triton.next_power_of_2(size)))
