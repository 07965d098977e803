"""Counts, mass and entropy against figures worked by hand; what is saved is what is loaded."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from olmoe_space.events import Finished, Prefilled, Routing, Started, Token
from olmoe_space.trace import RoutingTrace, TraceRecorder, load_npz, record

from .examples import EVENTS, FINISHED, PREFILLED, STARTED, TOKENS, routing

TRACE = record(EVENTS)
HOSTILE = ["<script>alert(1)</script>", "{{7*7}}", "${alert(1)}", "\x00", "\u202eabc", '"\\\n', "\ud800", ""]


def test_the_shape_of_a_trace():
    assert (TRACE.num_tokens, TRACE.num_layers, TRACE.num_experts, TRACE.prompt_tokens) == (5, 2, 4, 3)
    assert (TRACE.num_experts_per_tok, TRACE.weighting, TRACE.seed, TRACE.finish_reason) == (2, "raw", 7, "length")
    assert TRACE.token_ids.tolist() == [10, 11, 12, 20, 21]
    assert TRACE.text() == "Why is it?é" and TRACE.text("prefill") == "Why is it?" and TRACE.text("decode") == "é"


def test_counts_by_hand():
    assert TRACE.expert_counts().tolist() == [[5, 5, 0, 0], [2, 3, 2, 3]]
    assert TRACE.expert_counts("prefill").tolist() == [[3, 3, 0, 0], [1, 2, 2, 1]]
    assert TRACE.expert_counts("decode").tolist() == [[2, 2, 0, 0], [1, 1, 0, 2]]
    assert (TRACE.expert_counts().sum(1) == TRACE.num_tokens * TRACE.num_experts_per_tok).all()
    assert TRACE.never_used() == 2 and TRACE.never_used("prefill") == 2 and TRACE.never_used("decode") == 3


def test_weights_by_hand():
    # Layer 0 in the reply: 0.5 to 0 and 0.25 to 1, then 0.4 to 1 and 0.1 to 0.
    np.testing.assert_allclose(TRACE.expert_weights("decode"), [[0.6, 0.65, 0, 0], [0.25, 0.1, 0, 0.9]], atol=1e-7)


def test_mass_by_hand():
    # Layer 0 says 8:4:2:2, and experts 0 and 1 hold 12 of 16. Layer 1 says 1:1:1:1: any two hold a half.
    np.testing.assert_allclose(TRACE.routing_mass(), [[0.75, 0.5]] * 5, rtol=1e-6)
    assert TRACE.routing_mass("decode").shape == (2, 2)


def test_entropy_by_hand():
    # 1/2 ln 2 + 1/4 ln 4 + 2 (1/8 ln 8) = 1.75 ln 2; four alike: ln 4.
    np.testing.assert_allclose(TRACE.routing_entropy(), [[1.75 * math.log(2), math.log(4)]] * 5, rtol=1e-6)


def test_a_certain_router_has_no_entropy_and_no_warning():
    logits = np.full((1, 1, 4), -1e9, np.float32)
    logits[..., 2] = 0
    certain = record([STARTED, Token(1, "a", Routing(logits, np.array([[[2, 0]]], np.uint8),
                                                     np.array([[[1.0, 0.0]]], np.float32)))])
    with np.errstate(all="raise", under="ignore"):
        assert certain.routing_entropy().item() == pytest.approx(0, abs=1e-6)
        assert certain.routing_mass().item() == pytest.approx(1)


def test_every_expert_selected_holds_all_the_mass():
    every = np.arange(4, dtype=np.uint8).reshape(1, 1, 4)
    logits = np.array([[[3.0, -2.0, 0.5, 1.0]]], np.float32)
    trace = record([STARTED, Token(1, "a", Routing(logits, every, np.ones((1, 1, 4), np.float32)))])
    assert trace.routing_mass().item() == pytest.approx(1) and trace.never_used() == 0


def test_expert_255_has_its_own_column():
    """Expert ids are bytes; adding layer offsets must not wrap round."""
    chosen = np.full((2, 3, 1), 255, np.uint8)
    trace = record([STARTED, Prefilled((1, 2), ("a", "b"), Routing(np.zeros((2, 3, 256), np.float32), chosen,
                                                                  np.ones((2, 3, 1), np.float32)))])
    assert trace.expert_counts()[:, 255].tolist() == [2, 2, 2] and trace.expert_counts().sum() == 6


def test_the_recorder_can_be_asked_at_any_time():
    recorder = TraceRecorder()
    with pytest.raises(ValueError, match="No token"):
        recorder.trace()
    recorder.add(STARTED)
    with pytest.raises(ValueError, match="No token"):
        recorder.trace()
    recorder.add(PREFILLED[0])
    assert recorder.trace().num_tokens == 2 and recorder.trace().prompt_tokens == 2
    assert recorder.trace().expert_counts("decode").sum() == 0 and recorder.trace().text("decode") == ""
    for event in (PREFILLED[1], *TOKENS):
        recorder.add(event)
    assert recorder.new_tokens == 2 and recorder.trace().finish_reason is None
    recorder.add(FINISHED)
    assert recorder.trace().finish_reason == "length" and recorder.finished is FINISHED


def test_an_unknown_event_is_not_swallowed():
    with pytest.raises(TypeError, match="unknown event str"):
        TraceRecorder().add("token")


def assert_same(a: RoutingTrace, b: RoutingTrace) -> None:
    for name in ("token_ids", "router_logits", "selected_experts", "routing_weights"):
        assert getattr(a, name).dtype == getattr(b, name).dtype
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    for name in ("texts", "prompt_tokens", "num_experts_per_tok", "weighting", "seed", "finish_reason"):
        assert getattr(a, name) == getattr(b, name)


def trace_of(texts: list[str]) -> RoutingTrace:
    n = len(texts)
    return record([Started(n, 2, "raw", 2**63 - 1, 5, ()),
                   Prefilled(tuple(range(n)), tuple(texts), routing(*[[[0, 1], [2, 3]]] * n)),
                   Finished("stop", n, 0, 0.1, 0.0)])


def test_npz_round_trip():
    assert_same(load_npz(TRACE.to_npz()), TRACE)
    assert_same(load_npz(trace_of(HOSTILE).to_npz()), trace_of(HOSTILE))


def test_npz_is_plain_numpy_and_holds_what_the_figures_show():
    with np.load(io.BytesIO(TRACE.to_npz()), allow_pickle=False) as file:
        np.testing.assert_array_equal(file["routing_mass"], TRACE.routing_mass())
        np.testing.assert_array_equal(file["routing_entropy"], TRACE.routing_entropy())
        assert json.loads(str(file["meta"]))["prompt_tokens"] == 3


def test_another_format_version_is_refused():
    with np.load(io.BytesIO(TRACE.to_npz())) as file:
        content = dict(file)
    meta = json.loads(str(content["meta"]))
    content["meta"] = np.array(json.dumps(meta | {"format_version": 99}))
    changed = io.BytesIO()
    np.savez(changed, **content)
    with pytest.raises(ValueError, match="not written in format"):
        load_npz(changed.getvalue())


def test_json_says_the_same():
    data = json.loads(TRACE.to_json())
    assert data["expert_counts"] == TRACE.expert_counts("decode").tolist()
    assert data["prompt_expert_counts"] == TRACE.expert_counts("prefill").tolist()
    assert [token["phase"] for token in data["tokens"]] == ["prefill"] * 3 + ["decode"] * 2
    assert [token["id"] for token in data["tokens"]] == [10, 11, 12, 20, 21]
    assert data["tokens"][4]["selected_experts"] == [[1, 0], [3, 1]]
    assert data["tokens"][0]["routing_mass"] == [0.75, 0.5]


def test_json_keeps_hostile_text_as_text():
    text = trace_of(HOSTILE).to_json()
    assert text.isascii() and text.isprintable()
    assert [token["text"] for token in json.loads(text)["tokens"]] == HOSTILE


@given(st.lists(st.text(), min_size=1, max_size=8))
def test_any_texts_come_back(texts):
    trace = trace_of(texts)
    assert load_npz(trace.to_npz()).texts == trace.texts
    assert [token["text"] for token in json.loads(trace.to_json())["tokens"]] == texts


@given(arrays.arrays(np.float32, (3, 2, 8), elements=st.floats(-50, 50, width=32)), st.integers(1, 8))
def test_mass_and_entropy_stay_in_their_bounds(logits, k):
    chosen = np.argsort(-logits, -1, kind="stable")[..., :k].astype(np.uint8)
    weights = np.ones(chosen.shape, np.float32)
    trace = record([STARTED, Prefilled((1, 2, 3), ("a", "b", "c"), Routing(logits, chosen, weights))])
    mass, entropy = trace.routing_mass(), trace.routing_entropy()
    assert (mass <= 1 + 1e-5).all() and (mass >= k / 8 - 1e-5).all()  # the k most probable hold at least their share
    assert (entropy >= -1e-5).all() and (entropy <= math.log(8) + 1e-5).all()
    assert (trace.expert_counts().sum(1) == 3 * k).all()
