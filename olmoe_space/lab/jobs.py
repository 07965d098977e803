"""Everything that may run where the model is, by name: on ZeroGPU one function crosses to the worker, with a name and
arguments that pickle, because warm workers are kept per function.

A job is a generator function of the engine and its arguments; what it yields pickles too. `seconds` says how long it
may take, from the same arguments: small on purpose, since a call is refused if its claim exceeds the visitor's quota.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..engine.engine import Engine
from ..events import Event
from ..model_info import ModelInfo
from ..request import GenerationRequest
from .claims import check_claims
from .compare import differences
from .dataflow import inside
from .layer_budget import settled_request
from .performance import machine, speed_at_k
from .race import race, race_text
from .reading import read_sample, survey_reply, survey_texts
from .specialisation import studies
from .truth_meter import truth_meter

LOAD_S = 10  # seconds for a cold worker to bring the weights to its GPU
SLOW_TOKENS_PER_S = 20  # so that the claim holds on the slowest of the GPUs in use


@dataclass(frozen=True)
class Job:
    """on_device: whether the model takes part; if not, the job runs where it is asked for and costs no claim."""

    run: Callable[..., Iterator[Any]]
    seconds: Callable[..., int]
    on_device: bool = True


def no_memory(arguments: Sequence[Any]) -> str:
    """What to ask for instead of what these arguments of a job ask for. How much of it would fit is known to nobody
    while others use the device too; half is what to try."""
    asked = arguments[0] if arguments and isinstance(arguments[0], (list, tuple)) else arguments
    requests = [one for one in asked if isinstance(one, GenerationRequest)]
    ways = []
    most = max((request.sampling.max_new_tokens for request in requests), default=1)
    if most > 1:
        ways.append(f"at most {most // 2} new tokens instead of {most}")
    if fewer := len(requests) // 2:
        ways.append(f"{fewer} of the {len(requests)} settings at once")
    ways.append("a shorter text")
    return f"The memory of the device is full. Try {', or '.join(ways)}."


def computed(engine: Engine | None, name: str, *arguments: Any) -> Generator[Any, None, None]:
    """What the job of this name yields. Raises ValueError, with what would help, where the device's memory does not
    suffice: what the job held is free by then. engine: None will do for a job that is not on the device."""
    try:
        yield from JOBS[name].run(engine, *arguments)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        raise ValueError(no_memory(arguments)) from None


def _reply(engine: Engine, request: GenerationRequest) -> Iterator[Event]:
    return engine.stream(settled_request(engine, request))


def _replies(engine: Engine, requests: Sequence[GenerationRequest]) -> Iterator[tuple[int, Event]]:
    return engine.stream_together([settled_request(engine, request) for request in requests])


def _reply_seconds(request: GenerationRequest) -> int:
    return min(60, LOAD_S + request.sampling.max_new_tokens // SLOW_TOKENS_PER_S)


def _replies_seconds(requests: Sequence[GenerationRequest]) -> int:
    return max(_reply_seconds(r) for r in requests)


def _race_seconds(*_: Any) -> int:
    """Some thirty forwards over tokens that are known, and one over the calibration text."""
    return 4 * LOAD_S


def _measurement_seconds(*_: Any) -> int:
    """Forwards over tokens that are known: seconds, however long the text."""
    return 2 * LOAD_S


def _speed_seconds(_: ModelInfo, request: GenerationRequest, repeats: int, stock: bool) -> int:
    replies = (repeats + 1) * (2 if stock else 1)
    return min(60, LOAD_S + replies * request.sampling.max_new_tokens // SLOW_TOKENS_PER_S)


def _nothing(*_: Any) -> int:
    return 0


def _one_forward_seconds(*_: Any) -> int:
    return LOAD_S + 2


JOBS: dict[str, Job] = {
    "chat": Job(_reply, _reply_seconds),
    "compare": Job(_replies, _replies_seconds),
    "inside": Job(inside, _one_forward_seconds),
    "differences": Job(differences, _measurement_seconds),
    "truth_meter": Job(truth_meter, _measurement_seconds),
    "race": Job(race, _race_seconds),
    "race_text": Job(race_text, _race_seconds),
    "machine": Job(machine, _one_forward_seconds),
    "speed_at_k": Job(speed_at_k, _speed_seconds),
    "claims": Job(check_claims, _measurement_seconds),
    "survey": Job(survey_texts, _one_forward_seconds),
    "survey_reply": Job(survey_reply, _one_forward_seconds),
    "read_sample": Job(read_sample, _measurement_seconds),
    "study": Job(studies, _nothing, on_device=False),
}
