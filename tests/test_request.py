"""What makes no sense is refused with a sentence; what does comes out normalised."""

from __future__ import annotations

import dataclasses
import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from olmoe_space.request import (
    GenerationRequest,
    Message,
    RoutingPolicy,
    SamplingParams,
    messages_from_history,
    visible_message,
    well_formed,
    whole_number,
)

NOT_WHOLE = [None, True, False, 3.5, "3.5", "many", "", math.nan, math.inf, -math.inf, "nan", [], {}, object()]


@pytest.mark.parametrize("value", [8, 8.0, "8", " 8 ", "8.0"])
def test_whole_numbers_in_any_dress(value):
    number = whole_number(value, "k", 1, 64)
    assert number == 8 and type(number) is int
    assert whole_number(value, "k", 8, 8) == 8  # both ends count


@pytest.mark.parametrize("value", [*NOT_WHOLE, 0, 65, -1, 10**30, "1e400"])
def test_anything_else_is_refused_with_the_range(value):
    with pytest.raises(ValueError, match=r"^k must be a whole number from 1 to 64; got "):
        whole_number(value, "k", 1, 64)


def test_a_large_whole_number_keeps_every_digit():
    assert whole_number(2**63 - 1, "Seed", 0) == 2**63 - 1
    assert whole_number(str(2**63 - 1), "Seed", 0) == 2**63 - 1


def test_a_refusal_stays_short_whatever_was_given():
    with pytest.raises(ValueError) as refusal:
        whole_number("9" * 100_000, "k", 1, 64)
    assert len(str(refusal.value)) < 200


@given(st.one_of(st.floats(), st.text(), st.integers(), st.none(), st.booleans()))
def test_whole_number_never_breaks_in_another_way(value):
    try:
        assert 1 <= whole_number(value, "k", 1, 64) <= 64
    except ValueError as refusal:
        assert str(refusal).startswith("k must be")


@pytest.mark.parametrize(("field", "value"), [
    ("temperature", -0.1), ("temperature", math.nan), ("temperature", math.inf), ("temperature", "hot"),
    ("temperature", None), ("temperature", True),
    ("top_p", 0), ("top_p", -0.5), ("top_p", 1.01), ("top_p", math.nan),
    ("max_new_tokens", 0), ("max_new_tokens", 1.5), ("max_new_tokens", "all"),
    ("seed", -1), ("seed", 2**63), ("seed", 0.5),
])
def test_sampling_refuses(field, value):
    name = {"temperature": "Temperature", "top_p": "Top-p", "max_new_tokens": "Max new tokens", "seed": "Seed"}[field]
    with pytest.raises(ValueError, match=f"^{name} must be"):
        SamplingParams(**{field: value})


def test_sampling_normalises_and_is_frozen():
    sampling = SamplingParams("0", 1, "16", 3.0)
    assert sampling == SamplingParams(temperature=0.0, top_p=1.0, max_new_tokens=16, seed=3)
    assert type(sampling.top_p) is float and type(sampling.seed) is int
    with pytest.raises(dataclasses.FrozenInstanceError):
        sampling.seed = 4


@pytest.mark.parametrize("k", [0, 65, -8, *(value for value in NOT_WHOLE)])
def test_routing_refuses_k(k):
    with pytest.raises(ValueError, match=r"^Active experts \(k\) must be a whole number from 1 to 64"):
        RoutingPolicy(k)


def test_routing_refuses_a_range_the_wrong_way_round_and_says_what_to_do():
    with pytest.raises(ValueError, match=r"k_min \(9\) must not be larger than k_max \(8\); swap them"):
        RoutingPolicy("adaptive", k_min=9, k_max=8)


def test_routing_refuses_an_unknown_weighting_and_names_those_there_are():
    with pytest.raises(ValueError, match="raw, renormalised, mass_preserving; got 'heavy'"):
        RoutingPolicy(8, "heavy")


def test_adaptive_becomes_fixed_and_keeps_the_rest():
    policy = RoutingPolicy("adaptive", "renormalised", 2, 32)
    assert policy.is_adaptive
    assert policy.fixed_at(11) == RoutingPolicy(11, "renormalised", 2, 32)
    assert not policy.fixed_at(11).is_adaptive


def test_a_message_has_a_known_role_and_text():
    with pytest.raises(ValueError, match="role must be one of system, user, assistant; got 'tool'"):
        Message("tool", "hi")
    with pytest.raises(ValueError, match="content must be text; got NoneType"):
        Message("user", None)


def test_a_request_ends_with_the_visitors_message():
    for messages in ((), (Message("assistant", "hi"),), (Message("user", "a"), Message("system", "b"))):
        with pytest.raises(ValueError, match="last message must be the user's"):
            GenerationRequest(messages)
    request = GenerationRequest([Message("system", "s"), Message("user", "hi")])
    assert request.prompt == "hi" and isinstance(request.messages, tuple)
    assert pickle.loads(pickle.dumps(request)) == request


@pytest.mark.parametrize(("broken", "mended"), [
    ("\ud83d", "\ufffd"), ("a\udc00b", "a\ufffdb"), ("\ud83d\ude00", "😀"), ("😀\x00\u202e", "😀\x00\u202e")])
def test_lone_surrogates_are_replaced_and_nothing_else(broken, mended):
    assert well_formed(broken) == mended
    assert Message("user", broken).content == mended


@given(st.text())
def test_text_without_lone_surrogates_is_left_alone(text):
    mended = well_formed(text)
    mended.encode()
    if not any("\ud800" <= char <= "\udfff" for char in text):
        assert mended == text


@pytest.mark.parametrize("text", ["", " ", "\n\t \u3000", "\u00a0"])
def test_an_empty_message_is_refused(text):
    with pytest.raises(ValueError, match="empty"):
        visible_message(text, 100)


@pytest.mark.parametrize("text", ["\u200b", "\u200b\u200e \u202e", "\u2060\ufeff", "\x00", "\u3164", "\u2800 \u2800",
                                  "\U000e0041", "\u00ad"])
def test_a_message_of_invisible_characters_is_refused(text):
    with pytest.raises(ValueError, match="invisible"):
        visible_message(text, 100)


@pytest.mark.parametrize("text", [
    "?", "7", "é", "שלום", "\u202eabc", "🙂", "<script>", "{{7*7}}", "${alert(1)}", "a\x00b"])
def test_a_message_that_can_be_read_passes_as_it_is(text):
    assert visible_message(text, 100) == text


def test_a_message_too_long_is_refused_with_both_numbers():
    assert visible_message("a" * 100, 100) == "a" * 100
    with pytest.raises(ValueError, match="1,000,000 characters; at most 32,000"):
        visible_message("a" * 1_000_000, 32_000)
    with pytest.raises(ValueError, match="must be text; got int"):
        visible_message(3, 100)


def history(*entries):
    return messages_from_history(list(entries), max_chars=50, max_turns=3)


def test_history_takes_text_and_gradios_parts():
    parts = [{"type": "text", "text": "two "}, {"type": "text", "text": "parts"}]
    assert history({"role": "user", "content": "one"}, {"role": "assistant", "content": parts}) == [
        Message("user", "one"), Message("assistant", "two parts")]
    assert messages_from_history(None, 1, 1) == messages_from_history("", 1, 1) == messages_from_history([], 1, 1) == []


@pytest.mark.parametrize("not_a_history", ["hello", b"hello", 7, {"role": "user", "content": "x"}, object()])
def test_what_is_not_a_history_is_refused(not_a_history):
    with pytest.raises(ValueError, match="history must be a list"):
        messages_from_history(not_a_history, 100, 100)


@pytest.mark.parametrize(("entry", "reason"), [
    ("hi", "role and content"), (None, "role and content"), ({"role": "user"}, "role and content"),
    (["user", "hi"], "role and content"), ({"role": "root", "content": "x"}, "role must be"),
    ({"role": ["user"], "content": "x"}, "role must be"), ({"role": "user", "content": 5}, "must be text"),
    ({"role": "user", "content": [{"type": "file", "file": "x"}]}, "only text"),
])
def test_a_bad_entry_is_named_by_its_number(entry, reason):
    with pytest.raises(ValueError, match=f"^History entry 2.*{reason}"):
        history({"role": "user", "content": "fine"}, entry)


def test_history_limits_are_stated():
    with pytest.raises(ValueError, match="4 messages; at most 3"):
        history(*[{"role": "user", "content": "x"}] * 4)
    with pytest.raises(ValueError, match="60 characters; at most 50"):
        history(*[{"role": "user", "content": "x" * 20}] * 3)
