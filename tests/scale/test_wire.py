"""Frames come apart where they were put together, and what is read from them is data."""

from __future__ import annotations

import os
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from olmoe_space.engine.engine import Engine
from olmoe_space.lab.jobs import computed
from olmoe_space.request import GenerationRequest, Message, RoutingPolicy, SamplingParams
from olmoe_space.scale.wire import ALIVE, END, EVENTS, NAME, Frames, dumps, frame, loads

from ..fakes import byte_tokenizer, random_olmoe

REQUEST = GenerationRequest((Message("user", "One two three"),), SamplingParams(0.8, 1, 6, 0), RoutingPolicy(4))


@given(st.lists(st.tuples(st.sampled_from([NAME, EVENTS, ALIVE, END]), st.binary(max_size=40)), max_size=8),
       st.integers(1, 50))
def test_frames_come_whole_however_the_bytes_are_cut(frames: list[tuple[bytes, bytes]], size: int) -> None:
    data = b"".join(frame(*one) for one in frames)
    reader = Frames()
    assert [one for at in range(0, len(data), size) for one in reader.feed(data[at:at + size])] == frames


@pytest.mark.parametrize("rule", [RoutingPolicy(4), RoutingPolicy(4, "mass_preserving", expert_scales=((0, 3, 0.0),))])
def test_requests_and_events_cross_unchanged(rule: RoutingPolicy) -> None:
    request = GenerationRequest(REQUEST.messages, REQUEST.sampling, rule)
    assert loads(dumps(("chat", (request,)))) == ("chat", (request,))
    events = list(computed(Engine(random_olmoe(), byte_tokenizer()), "chat", request))
    read = [loads(dumps(event)) for event in events]
    assert [type(event) for event in read] == [type(event) for event in events]
    for event, sent in zip(read, events, strict=True):
        for name, value in vars(sent).items():
            if name == "routing":
                assert all(np.array_equal(array, getattr(event.routing, part)) for part, array in vars(value).items())
            else:
                assert getattr(event, name) == value


class Runs:
    def __reduce__(self) -> Any:
        return os.getcwd, ()


@pytest.mark.parametrize("payload", [
    pickle.dumps(Runs()),
    b"cbuiltins\neval\n(S'1'\ntR.", b"cbuiltins\ngetattr\n.", b"cos\nsystem\n.",
    b"colmoe_space.settings\nfrom_environment\n)R.",   # a function of ours
    b"colmoe_space.settings\nos\n.",                    # a module that ours has imported
    b"colmoe_space.lab.jobs\ntorch\n.",
    b"colmoe_space.scale.ray_engine\nRayEngine\n.",     # a class that is no record
    b"\x80\x04\x8c\x14olmoe_space.settings\x8c\x09os.system\x93.",
])
def test_code_is_not_read(payload: bytes) -> None:
    with pytest.raises(pickle.UnpicklingError):
        loads(payload)
