"""The model by PyTorch's own operations: every device, every dtype, every routing policy.

Requests opened together are rows of one cache and go through one forward; the others take theirs one after another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from ..events import Routing
from ..model.structure import OlmoeWeights, weights_of
from ..request import RoutingPolicy
from .cache import KeyValueCache
from .forward import StepOutput, forward
from .kernels import LaneRequest, Step, draw_and_feed
from .routing import RowRouting, row_routing


class PyTorchLane:
    """A row of a cache that the requests opened together share."""

    def __init__(self, request: LaneRequest, weights: OlmoeWeights, cache: KeyValueCache, row: int) -> None:
        self.request, self.weights, self.cache, self.row = request, weights, cache, row
        self.generator = torch.Generator(weights.device).manual_seed(request.seed)
        self.logits = torch.empty(0)


class PyTorchKernels:
    """See `kernels.Kernels`. The weights are read anew for each request: on ZeroGPU they move into the worker."""

    name = "PyTorch"

    def __init__(self, model: Any) -> None:
        self._model = model
        weights_of(model)  # refuses what it does not know, before the first visitor

    def computes(self, routing: RoutingPolicy) -> bool:
        return True

    @contextmanager
    def lanes(self, requests: Sequence[LaneRequest]) -> Iterator[list[PyTorchLane]]:
        weights = weights_of(self._model)
        _routing_of(requests, weights)  # refuse a bad k now
        cache = KeyValueCache(weights, len(requests), max(r.capacity for r in requests))
        yield [PyTorchLane(request, weights, cache, row) for row, request in enumerate(requests)]

    def prefill(self, lane: PyTorchLane, token_ids: Sequence[int]) -> Routing:
        output = _forward([lane], [token_ids])
        lane.logits = output.logits[0, -1]
        return _routing(output, 0, lane.request.k)

    def step(self, lanes: Sequence[PyTorchLane], stop_ids: frozenset[int]) -> list[Step | Exception]:
        return draw_and_feed(lanes, stop_ids, _feed)


def _feed(lanes: list[PyTorchLane], tokens: list[int]) -> list[Routing]:
    """One token a lane; the lanes of one cache in one forward."""
    routings: dict[int, Routing] = {}
    for cache in {id(lane.cache): lane.cache for lane in lanes}.values():
        together = [i for i, lane in enumerate(lanes) if lane.cache is cache]
        output = _forward([lanes[i] for i in together], [[tokens[i]] for i in together])
        for row, i in enumerate(together):
            lanes[i].logits = output.logits[row, -1]
            routings[i] = _routing(output, row, lanes[i].request.k)
    return [routings[i] for i in range(len(lanes))]


def _forward(lanes: Sequence[PyTorchLane], token_ids: Sequence[Sequence[int]]) -> StepOutput:
    """Lanes of one cache, N tokens each."""
    weights = lanes[0].weights
    routing = _routing_of([lane.request for lane in lanes], weights)
    ids = torch.tensor([list(row) for row in token_ids], device=weights.device)
    return forward(weights, ids, lanes[0].cache, [lane.row for lane in lanes], routing)


def _routing_of(requests: Sequence[LaneRequest], weights: OlmoeWeights) -> RowRouting:
    return row_routing([r.routing for r in requests], weights.num_experts, weights.device, len(weights.layers),
                       [r.seed for r in requests])


def _routing(output: StepOutput, row: int, k: int) -> Routing:
    """What one row's tokens did, cut to its own k and brought to the CPU."""
    array = lambda t: np.ascontiguousarray(t.cpu().numpy())  # noqa: E731
    return Routing(array(output.router_logits[row]), array(output.selected_experts[row, ..., :k]),
                   array(output.routing_weights[row, ..., :k]), array(output.active_experts[row]))
