"""A GPU whose memory is full: `pytest -m gpu tests/gpu`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from olmoe_space.events import Token
from olmoe_space.lab.jobs import computed
from olmoe_space.library import load
from olmoe_space.request import GenerationRequest, Message, RoutingPolicy, SamplingParams
from olmoe_space.settings import EMBEDDED_MODEL

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
REQUEST = GenerationRequest((Message("user", "Tell me a story about the sea. " * 80),),
                            SamplingParams(temperature=0, max_new_tokens=16), RoutingPolicy(8))


@contextmanager
def full_memory() -> Iterator[None]:
    """Nothing is left for PyTorch, neither on the device nor in what it keeps."""
    held, size = [], 2**32
    while size >= 512:
        try:
            held.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
        except torch.OutOfMemoryError:
            size //= 2
    try:
        yield
    finally:
        held.clear()
        torch.cuda.empty_cache()


def test_it_is_said_and_the_next_chat_is_right() -> None:
    engine = load(str(EMBEDDED_MODEL)).engine
    tokens = lambda: [e.token_id for e in computed(engine, "chat", REQUEST) if isinstance(e, Token)]  # noqa: E731
    alone = tokens()
    with full_memory():
        for _ in range(20):  # more than there are slots: each gives its own back
            with pytest.raises(ValueError, match="The memory of the device is full. Try at most 8 new tokens"):
                tokens()
    assert len(alone) > 1 and tokens() == alone
