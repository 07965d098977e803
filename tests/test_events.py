"""Events cross a process boundary on ZeroGPU: they pickle, survive a fork and cannot be changed."""

from __future__ import annotations

import dataclasses
import multiprocessing
import pickle
from typing import get_args

import numpy as np
import pytest

from olmoe_space.events import Event, Finished, Piece

from . import examples

EVENTS = (*examples.EVENTS, Piece("It is é."))


def same(a, b):
    """Equality through dataclasses, tuples and arrays, types included."""
    if dataclasses.is_dataclass(a):
        return type(a) is type(b) and all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    return type(a) is type(b) and a == b


def test_there_is_an_example_of_every_event():
    assert {type(event) for event in EVENTS} == set(get_args(Event))


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_every_event_pickles(event):
    assert same(pickle.loads(pickle.dumps(event)), event)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_every_event_is_frozen(event):
    name = dataclasses.fields(event)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(event, name, None)


def _send(pipe):
    for event in EVENTS:
        pipe.send(event)
    pipe.close()


def test_every_event_survives_a_fork():
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_send, args=(theirs,))
    child.start()
    theirs.close()
    received = [ours.recv() for _ in EVENTS]
    child.join(30)
    assert child.exitcode == 0
    assert all(same(got, sent) for got, sent in zip(received, EVENTS, strict=True))


def test_an_event_of_one_token_is_small():
    """A chat crosses the boundary once a token; 16 layers, 64 experts and k = 64 must stay cheap."""
    from olmoe_space.events import Routing, Token
    token = Token(5, " the", Routing(np.zeros((1, 16, 64), np.float32), np.zeros((1, 16, 64), np.uint8),
                                     np.zeros((1, 16, 64), np.float32)))
    assert len(pickle.dumps(token)) < 10_000


@pytest.mark.parametrize(("new_tokens", "decode_s", "rate"), [
    (0, 0.0, 0.0), (1, 0.0, 0.0), (1, 5.0, 0.0), (2, 0.0, 0.0), (2, 0.5, 2.0), (101, 2.0, 50.0)])
def test_the_rate_counts_the_tokens_after_the_first(new_tokens, decode_s, rate):
    assert Finished("stop", 3, new_tokens, 0.1, decode_s).tokens_per_s == rate
