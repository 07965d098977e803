"""The Triton decoder behind `engine.kernels.Kernels`: a lane is a slot of the decoder, prompts go through PyTorch.

A prompt's forward has enough tokens to be a matter of large products, which PyTorch does well; it writes its keys and
values into the slot that the decoder goes on from.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...events import Routing
from ...model.memory import Room
from ...model.structure import OlmoeWeights, UnknownStructure, weights_of
from ...request import RoutingPolicy
from ..batching import SEATS
from ..forward import forward
from ..kernels import BackendUnavailable, LaneRequest, Step
from ..proof import prove
from ..routing import row_routing
from .decoder import BUCKETS, Decoder, Settings, Traced, unsupported

log = logging.getLogger(__name__)
MEMORY_SHARE = 0.6  # of what is free, for the slots; the rest is a prompt's workspace


class TritonLane:
    """A slot of the decoder, for one request."""

    def __init__(self, request: LaneRequest, decoder: Decoder, slot: int) -> None:
        self.request, self.decoder, self.slot = request, decoder, slot
        self.held = 0  # tokens fed and told of
        self.coming: tuple[Callable[[], Traced], int] | None = None  # a step begun but not told of, and its row in it

    @property
    def logits(self) -> Tensor:
        """After the last token fed, float32 [V]."""
        return self.decoder.logits(self.slot, self.held).to(torch.float32, copy=True)


class TritonKernels:
    """See `kernels.Kernels`. Raises BackendUnavailable where they cannot run or do not give the model's logits."""

    name = "Triton"

    def __init__(self, model: Any, room: Room | None = None) -> None:
        weights = weights_of(model)
        capability = torch.cuda.get_device_capability(weights.device)
        if capability < (7, 5) or weights.dtype == torch.bfloat16 and capability < (8, 0):
            raise BackendUnavailable(f"This GPU (compute capability {capability[0]}.{capability[1]}) does not compute "
                                     f"in {weights.dtype}; float16 needs 7.5, bfloat16 8.0.")
        if reason := unsupported(weights):
            raise BackendUnavailable(f"The Triton kernels cannot compute this model: {reason}.")
        room = room or _affordable(weights, model.config.max_position_embeddings)
        slots = room.slots
        most = next(rows for rows in BUCKETS if rows >= min(slots, BUCKETS[-1]))
        self._decoder = Decoder(weights, slots, room.context, max_rows=most)
        self._free = list(range(slots))
        self._slots = slots
        self._room = threading.Condition()
        for rows in self._decoder.buckets:
            self._decoder.capture(rows)
        try:
            prove(model, self)
        except UnknownStructure as error:
            log.warning("The Triton kernels failed their proof on this GPU, so they are not used: %s", error)
            raise BackendUnavailable(str(error)) from error

    def computes(self, routing: RoutingPolicy) -> bool:
        """One k and one of three weightings; anything else that a policy may ask for is PyTorch's."""
        return routing == RoutingPolicy(num_experts_per_tok=routing.num_experts_per_tok, weighting=routing.weighting,
                                        k_min=routing.k_min, k_max=routing.k_max)

    @contextmanager
    def lanes(self, requests: Sequence[LaneRequest]) -> Iterator[list[TritonLane]]:
        weights = self._decoder.weights
        row_routing([r.routing for r in requests], weights.num_experts, weights.device)  # refuse a bad k now
        if len(requests) > self._slots:
            raise ValueError(f"At most {self._slots} replies can be decoded at once on this GPU; got {len(requests)}.")
        with self._room:
            self._room.wait_for(lambda: len(self._free) >= len(requests))
            taken = [self._free.pop(0) for _ in requests]
        try:
            for slot in taken:
                self._decoder.cache.lengths[slot] = 0
            yield [TritonLane(request, self._decoder, slot) for request, slot in zip(requests, taken, strict=True)]
        finally:
            with self._room:
                self._free += taken  # a step of theirs may still run: whatever comes next waits for it on the device
                self._room.notify_all()

    def prefill(self, lane: TritonLane, token_ids: Sequence[int]) -> Routing:
        weights, cache, request = self._decoder.weights, self._decoder.cache, lane.request
        routing = row_routing([request.routing], weights.num_experts, weights.device)
        ids = torch.tensor([list(token_ids)], device=weights.device)
        output = forward(weights, ids, cache, [lane.slot], routing)
        self._decoder.settle(lane.slot, Settings(request.k, request.routing.weighting, request.sampling.temperature,
                                                 request.sampling.top_p, request.seed),
                             cache.lengths[lane.slot], output.logits[0, -1])
        lane.held = cache.lengths[lane.slot]
        return _routing(output.router_logits[0], output.selected_experts[0], output.routing_weights[0], request.k)

    def step(self, lanes: Sequence[TritonLane], stop_ids: frozenset[int]) -> list[Step | Exception]:
        """As `Kernels.step`; a stop token is fed too, which nobody sees: its lane ends.

        Each lane's next token is begun before this one is told, so that the GPU does not wait for Python. A lane that
        does not come back has computed one token too many.
        """
        self._begin([lane for lane in lanes if lane.coming is None])
        here = []
        for lane in lanes:
            assert lane.coming is not None
            here.append(lane.coming)
            lane.coming, lane.held = None, lane.held + 1
        self._begin([lane for lane in lanes if lane.held < lane.request.capacity])
        return [_step(traced(), row, lane.request.k, stop_ids)
                for (traced, row), lane in zip(here, lanes, strict=True)]

    def _begin(self, lanes: Sequence[TritonLane]) -> None:
        if lanes:
            traced = self._decoder.step([lane.slot for lane in lanes])
            for row, lane in enumerate(lanes):
                lane.coming = (traced, row)


def _step(traced: Traced, row: int, k: int, stop_ids: frozenset[int]) -> Step | Exception:
    token = int(traced.tokens[row])
    if token < 0:
        return RuntimeError("The model's logits are not numbers.")
    if token in stop_ids:
        return Step(token, None)
    return Step(token, Routing(traced.router_logits[row, None].numpy().copy(),
                               traced.experts[row, None, :, :k].numpy().astype(np.uint8),
                               traced.weights[row, None, :, :k].numpy().copy()))


def _routing(router_logits: Tensor, experts: Tensor, weights: Tensor, k: int) -> Routing:
    """[T, L, E], [T, L, K], [T, L, K] -> what an event carries, cut to k."""
    here = [_on_cpu(t) for t in (router_logits, experts[..., :k].to(torch.uint8), weights[..., :k])]
    if router_logits.is_cuda:
        torch.cuda.synchronize(router_logits.device)
    return Routing(*(t.numpy().copy() for t in here))  # what is kept is not to stay pinned


def _on_cpu(values: Tensor) -> Tensor:
    """Begun, not waited for. By way of pinned memory, which the GPU fills itself: a prompt's logits are megabytes."""
    if not values.is_cuda:
        return values
    return torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)


def _affordable(weights: OlmoeWeights, capacity: int) -> Room:
    """As many slots as a step has seats, or fewer, as the GPU's free memory allows."""
    values = 2 * len(weights.layers) * weights.num_kv_heads * weights.head_dim * capacity
    free, _ = torch.cuda.mem_get_info(weights.device)
    slots = min(SEATS, int(MEMORY_SHARE * free / (values * weights.dtype.itemsize)))
    if slots < 1:
        raise BackendUnavailable(
            f"The keys and values of one chat of {capacity} tokens need {values * weights.dtype.itemsize / 2**30:.2f} "
            f"GiB; {free / 2**30:.2f} GiB are free, of which {MEMORY_SHARE:.0%} may be used.")
    return Room(slots, capacity)
