"""The live view's values: right to the number, whole at the end, harmless whatever the tokens say, and cheap."""

from __future__ import annotations

import base64
import json
import math
import pickle
import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from olmoe_space.events import Event, Finished, Prefilled, Routing, Started, Token
from olmoe_space.model_info import ModelInfo
from olmoe_space.trace import RoutingTrace, record
from olmoe_space.ui.live_view import EMPTY, PROMPT_TOKENS_LISTED, ChatTotals, LiveFrames, live_view

HOSTILE = ["<script>alert(1)</script>", "{{7*7}}", "${alert(1)}", "`${1}`", "\x00", "\ud800", "שלום\u202e", "</style>",
           "\\", "\n", "", "\U0001f40b", "\u2028"]


def info(num_layers: int = 16, num_experts: int = 64) -> ModelInfo:
    return ModelInfo(name="olmoe-tiny", num_layers=num_layers, num_experts=num_experts, default_k=min(8, num_experts),
                     hidden_size=256, intermediate_size=32, num_heads=4, vocab_size=8192, context_length=1024,
                     norm_topk_prob=False, total_params=31_700_000, dtype="float32", device="CPU", backend="PyTorch",
                     has_chat_template=True)


def route(rng: np.random.Generator, tokens: int, model: ModelInfo, k: int) -> Routing:
    logits = rng.normal(size=(tokens, model.num_layers, model.num_experts)).astype(np.float32) * 2
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    selected = np.argsort(-probs, -1)[..., :k]
    return Routing(logits, selected.astype(np.uint8), np.take_along_axis(probs, selected, -1))


def events(model: ModelInfo, k: int = 8, prompt: int = 5, reply: int = 20, seed: int = 0,
           texts: list[str] | None = None, chunk: int = 1000) -> Iterator[Event]:
    rng = np.random.default_rng(seed)
    said = texts or [f" word{i}" for i in range(reply)]
    yield Started(prompt, k, "raw", seed, 512, ())
    for start in range(0, prompt, chunk):
        ids = range(start, min(prompt, start + chunk))
        yield Prefilled(tuple(ids), tuple(f"p{i}" for i in ids), route(rng, len(ids), model, k))
    for i, text in enumerate(said):
        yield Token(i, text, route(rng, 1, model, k))
    yield Finished("stop", prompt, len(said), 0.1, 1.0)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def frames_of(model: ModelInfo, stream: Any, step: float = 0.04,
              **options: Any) -> tuple[list[dict[str, Any]], LiveFrames]:
    """All frames, `step` seconds a token."""
    clock = Clock()
    live = LiveFrames(model, clock=clock, **options)
    values = []
    for event in stream:
        clock.now += step
        values.append(live.add(event))
    values.append(live.last())
    return [json.loads(v) for v in values if v], live


# Read as the page reads it -------------------------------------------------------------------------------------------

def numbers(coded: str, kinds: dict[int, str], count: int) -> np.ndarray:
    data = base64.b64decode(coded)
    return np.frombuffer(data, kinds[len(data) // count])


def totals(frame: dict[str, Any], phase: str) -> tuple[np.ndarray, np.ndarray]:
    shape = (frame["num_layers"], frame["num_experts"])
    part = frame[phase]
    return (numbers(part["counts"], {2: "<u2", 4: "<u4"}, math.prod(shape)).reshape(shape),
            numbers(part["weights"], {2: "<f2", 4: "<f4"}, math.prod(shape)).reshape(shape))


def token_maps(frame: dict[str, Any], chunk: dict[str, Any]) -> list[np.ndarray]:
    """A map [L, E] of weights a token; -1 where not selected."""
    tokens, layers, experts, k = len(chunk["texts"]), frame["num_layers"], frame["num_experts"], chunk.get("width", 0)
    if not tokens:
        return []
    weights = np.frombuffer(base64.b64decode(chunk["weights"]), "<f2").astype(float)
    if "experts" not in chunk:
        return list(weights.reshape(tokens, layers, experts))
    selected = np.frombuffer(base64.b64decode(chunk["experts"]), np.uint8).reshape(tokens, layers, k)
    maps = np.full((tokens, layers, experts), -1.0)
    np.put_along_axis(maps, selected.astype(int), weights.reshape(tokens, layers, k), -1)
    return list(maps)


def true_maps(trace: RoutingTrace, phase: Any) -> np.ndarray:
    part = trace.tokens(phase)
    maps = np.full(trace.router_logits[part].shape, -1.0)
    np.put_along_axis(maps, trace.selected_experts[part].astype(int), trace.routing_weights[part].astype(float), -1)
    return maps


# Tests ---------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("shape, k", [((16, 64), 8), ((16, 64), 64), ((16, 64), 1), ((3, 5), 4), ((2, 200), 2)])
def test_the_last_frame_is_the_trace(shape: tuple[int, int], k: int) -> None:
    model = info(*shape)
    stream = list(events(model, k=k, chunk=3))
    frames, _ = frames_of(model, stream)
    last, trace = frames[-1], record(stream)
    assert last["complete"] and not frames[-2]["complete"] and last["finish_reason"] == "stop"
    for phase, listed in (("prefill", "prompt"), ("decode", "reply")):
        counts, weights = totals(last, phase)
        np.testing.assert_array_equal(counts, trace.expert_counts(phase))
        np.testing.assert_allclose(weights, trace.expert_weights(phase), rtol=1e-6, atol=1e-9)
        assert last[phase]["tokens"] == len(trace.texts[trace.tokens(phase)])
        assert last[phase]["mass"] == pytest.approx(trace.routing_mass(phase).mean(1).sum(), abs=1e-3)
        assert last[phase]["entropy"] == pytest.approx(trace.routing_entropy(phase).mean(1).sum(), abs=1e-3)
        assert tuple(last[listed]["texts"]) == trace.texts[trace.tokens(phase)]
        np.testing.assert_allclose(token_maps(last, last[listed]), true_maps(trace, phase), rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(last[listed]["mass"], trace.routing_mass(phase).mean(1), atol=1e-4)
        np.testing.assert_allclose(last[listed]["entropy"], trace.routing_entropy(phase).mean(1), atol=1e-4)


def test_every_frame_counts_what_was_computed_until_then() -> None:
    model = info()
    stream = list(events(model))
    frames, _ = frames_of(model, stream)
    assert len(frames) > 5
    for frame in frames:
        decoded = frame["decode"]["tokens"]
        if decoded:
            until = record([*stream[:2], *stream[2:2 + decoded]])
            np.testing.assert_array_equal(totals(frame, "decode")[0], until.expert_counts("decode"))
            np.testing.assert_allclose(totals(frame, "decode")[1], until.expert_weights("decode"), rtol=2e-3)


@pytest.mark.parametrize("step", [0.04, 0.11])
def test_one_lost_frame_leaves_no_gap(step: float) -> None:
    """Also when every second frame is lost."""
    frames, _ = frames_of(info(), events(info()), step=step)
    for kept in (frames[:-1][::2], frames[:-1][1::2]):
        have = 0
        for frame in kept:
            assert frame["reply"]["from"] <= have
            have = max(have, frame["reply"]["from"] + len(frame["reply"]["texts"]))
        assert have >= 17


def test_the_prompt_and_the_chat_travel_until_the_reply_runs() -> None:
    frames, _ = frames_of(info(), events(info()), step=0.04)
    assert ["chat" in frame and "choice" in frame for frame in frames[:5]] == [True, True, True, False, False]
    whole = [len(frame["prompt"]["texts"]) == 5 for frame in frames[:-1] if "prompt" in frame]
    assert whole.count(True) >= 2  # one may get lost


def test_at_most_so_many_a_second() -> None:
    frames, _ = frames_of(info(), events(info(), reply=100), step=0.01)
    assert 9 <= len(frames) <= 13  # 1.02 seconds, and the last


def test_a_long_prompt_is_counted_whole_and_listed_in_part() -> None:
    frames, _ = frames_of(info(2, 8), events(info(2, 8), prompt=PROMPT_TOKENS_LISTED + 50, k=2, chunk=64))
    last = frames[-1]
    assert last["prefill"]["tokens"] == PROMPT_TOKENS_LISTED + 50
    assert totals(last, "prefill")[0].sum() == (PROMPT_TOKENS_LISTED + 50) * 2 * 2
    assert last["prompt"]["from"] == 50 and len(last["prompt"]["texts"]) == PROMPT_TOKENS_LISTED


def test_a_chat_adds_up_and_pickles() -> None:
    model = info(4, 16)
    chat, counts = None, 0
    for seed in range(3):
        stream = list(events(model, k=3, seed=seed))
        before = chat
        frames, live = frames_of(model, stream, chat=chat)
        chat = pickle.loads(pickle.dumps(live.chat_totals()))
        counts = counts + record(stream).expert_counts("decode")
        sent = frames[-1]["chat"]["decode"]["tokens"]
        assert sent == (before.decode.tokens if before else 0)  # what was before; the page adds this reply
    assert isinstance(chat, ChatTotals)
    np.testing.assert_array_equal(chat.decode.counts, counts)
    assert chat.decode.tokens == 60 and chat.prefill.tokens == 15


def test_totals_given_are_not_changed() -> None:
    model = info(4, 16)
    _, live = frames_of(model, events(model, k=3))
    chat = live.chat_totals()
    kept = chat.decode.counts.copy()
    frames_of(model, events(model, k=3, seed=1), chat=chat)
    np.testing.assert_array_equal(chat.decode.counts, kept)


def test_totals_of_another_model_are_refused() -> None:
    with pytest.raises(ValueError, match="another model"):
        LiveFrames(info(), ChatTotals.zero(info(2, 4)))


def test_large_sums_do_not_overflow() -> None:
    model = info(2, 4)
    zero = ChatTotals.zero(model)
    big = zero.decode.counts + 70_000
    chat = ChatTotals(zero.prefill, type(zero.decode)(big, big.astype(float), 70_000, 1.0, 1.0))
    frames, _ = frames_of(model, events(model, k=2), chat=chat)
    part = frames[-1]["chat"]["decode"]
    assert (numbers(part["counts"], {2: "<u2", 4: "<u4"}, 8) == 70_000).all()
    assert (numbers(part["weights"], {2: "<f2", 4: "<f4"}, 8) == 70_000).all()


def test_figures_and_choice() -> None:
    choice = {"k": np.int64(12), "score": np.float32(0.5), "contributions": ({"label": "34 words", "points": 0.17},),
              "terms": []}
    frames, live = frames_of(info(), events(info(), k=12), choice=choice)
    last = frames[-1]
    assert last["mean_k"] == 12 and last["active_params"] == info().active_params(12)
    assert last["choice"]["k"] == 12 and last["choice"]["contributions"][0]["points"] == 0.17
    assert live.routing_mass == pytest.approx(record(events(info(), k=12)).routing_mass("decode").mean(), abs=1e-5)


def test_hostile_texts_arrive_as_text_and_nothing_else() -> None:
    stream = list(events(info(), texts=HOSTILE))
    clock = Clock()
    live = LiveFrames(info(), clock=clock)
    for event in stream:
        clock.now += 1
        value = live.add(event)
        assert value is None or (value.isascii() and "<" not in value and "\x00" not in value)
    assert json.loads(live.last())["reply"]["texts"] == HOSTILE
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # gr.HTML warns of script tags
        live_view(info()).postprocess(live.last())


def test_the_template_refers_to_no_value() -> None:
    """Anything gradio would evaluate is absent, so that no value is ever code or markup."""
    view = live_view(info())
    assert not any(sign in view.html_template for sign in ("${", "{{", "`", "\\"))
    assert view.css_template == "" and view.value == EMPTY
    script = str(view.js_on_load)
    assert "innerHTML" not in script and "://" not in script.replace("http://www.w3.org/2000/svg", "")


def test_nothing_computed_gives_nothing_to_show() -> None:
    live = LiveFrames(info())
    assert live.last() == EMPTY
    live.add(Started(5, 8, "raw", 0, 10, ()))
    assert live.last() == EMPTY


def test_a_stopped_reply_is_complete_too() -> None:
    stream = list(events(info()))[:10]  # no Finished
    frames, _ = frames_of(info(), stream)
    assert frames[-1]["complete"] and frames[-1]["finish_reason"] is None
    assert len(frames[-1]["reply"]["texts"]) == 8


def test_it_raises_on_what_it_does_not_know() -> None:
    with pytest.raises(TypeError, match="unknown event"):
        LiveFrames(info()).add("token")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="but the model has"):
        LiveFrames(info(2, 4)).add(next(e for e in events(info(2, 8), k=2) if isinstance(e, Token)))


@pytest.mark.parametrize("k, kilobytes, megabytes", [(8, 30, 0.5), (64, 90, 2.2)])
def test_it_is_small_and_cheap(k: int, kilobytes: float, megabytes: float) -> None:
    """16 x 64, 512 tokens at 40 a second; the time's limit is far above what it takes (0.1 to 0.3 ms)."""
    stream = list(events(info(), k=k, prompt=64, reply=512))
    clock = Clock()
    live = LiveFrames(info(), clock=clock)
    sizes = []
    began = time.perf_counter()
    for event in stream:
        clock.now += 0.025
        if value := live.add(event):
            sizes.append(len(value))
    took = time.perf_counter() - began
    assert took / 512 < 3e-3
    assert np.median(sizes) < kilobytes * 1000
    assert len(live.last()) < megabytes * 1e6
