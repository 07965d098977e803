"""The interface behind which the model is computed; each kind of device has its own kernels.

`Kernels` computes requests, each in a `Lane` of its own. It knows of tokens, not of text, and of no other request: what
a lane gives depends on its own request alone, whoever shares a step with it and wherever its prompt is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ..events import Routing
from ..request import RoutingPolicy, SamplingParams
from .sampling import sample


class BackendUnavailable(ValueError):
    """This backend cannot compute this model here; the message says why and what to do."""


@dataclass(frozen=True)
class LaneRequest:
    """What a lane needs to know of its request. capacity: tokens, prompt and reply together."""

    capacity: int
    routing: RoutingPolicy  # with its k: a number, no longer "adaptive"
    sampling: SamplingParams
    seed: int

    @property
    def k(self) -> int:
        return int(self.routing.num_experts_per_tok)


@dataclass(frozen=True)
class Step:
    """A token drawn, and what the routers did with it (T = 1); None: it is a stop token and was not fed."""

    token_id: int
    routing: Routing | None


class Lane(Protocol):
    """One request on its way: its keys and values, its settings, the state of its sampling."""

    request: LaneRequest
    logits: Tensor  # float32 [V], after the last token fed


class Kernels(Protocol):
    """A way to compute one loaded model. `prefill` and `step` are called under `Engine.turn`, one at a time."""

    name: str  # for people: "PyTorch"

    def computes(self, routing: RoutingPolicy) -> bool:
        """Whether requests with this policy can be given to these kernels; PyTorch's compute them all."""

    def lanes(self, requests: Sequence[LaneRequest]) -> AbstractContextManager[list[Any]]:
        """Room for these requests, a lane each, given back at the end of the `with` block.

        Raises ValueError for a k this model cannot have. Called from any thread; may wait until there is room.
        """

    def prefill(self, lane: Any, token_ids: Sequence[int]) -> Routing:
        """Feed the next N tokens of a prompt, a chunk of them; T = N in what is returned."""

    def step(self, lanes: Sequence[Any], stop_ids: frozenset[int]) -> list[Step | Exception]:
        """Draw each lane's next token from its logits as its request says (`sampling.sample`) and feed it.

        Lanes may belong to different requests, with different k, weighting, length and seed. A lane that cannot
        go on gets its error in its place; the others go on.
        """


def draw_and_feed(lanes: Sequence[Any], stop_ids: frozenset[int],
                  feed: Callable[[list[Any], list[int]], list[Routing]]) -> list[Step | Exception]:
    """`Kernels.step` for lanes that sample on the CPU from `lane.logits` with `lane.generator`."""
    steps: list[Step | Exception] = []
    fed: dict[int, int] = {}
    for i, lane in enumerate(lanes):
        sampling = lane.request.sampling
        try:
            token = sample(lane.logits, sampling.temperature, sampling.top_p, lane.generator)
        except RuntimeError as error:  # logits that are not numbers
            steps.append(error)
            continue
        steps.append(Step(token, None))
        if token not in stop_ids:
            fed[i] = token
    if fed:
        routings = feed([lanes[i] for i in fed], list(fed.values()))
        for (i, token), routing in zip(fed.items(), routings, strict=True):
            steps[i] = Step(token, routing)
    return steps
