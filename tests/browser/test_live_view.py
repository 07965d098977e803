"""The live view in a real browser, fed by made-up routing: what it draws, says and does, to the number."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import gradio as gr
import numpy as np
import pytest
from playwright.sync_api import Page, expect

from olmoe_space.events import Event, Finished, Prefilled, Routing, Started, Token
from olmoe_space.model_info import ModelInfo
from olmoe_space.trace import RoutingTrace, record
from olmoe_space.ui.live_view import EMPTY, LiveFrames, live_view

pytestmark = pytest.mark.browser

LAYERS, EXPERTS, K = 16, 64, 8
INFO = ModelInfo(name="olmoe-tiny", num_layers=LAYERS, num_experts=EXPERTS, default_k=K, hidden_size=256,
                 intermediate_size=32, num_heads=4, vocab_size=8192, context_length=1024, norm_topk_prob=False,
                 total_params=31_700_000, dtype="float32", device="CPU", backend="PyTorch", has_chat_template=True)
WORDS = "The sky is blue because air scatters short waves more than long ones .".split()
REPLY = tuple((" " if i else "") + WORDS[i % len(WORDS)] + ("\n" if i % 13 == 12 else "") for i in range(96))
HOSTILE = ("<script>alert(1)</script>", "{{7*7}}", " ${alert(1)}", "`${alert(2)}`", "\x00", "\ud800", "שלום", "\u202e",
           "<img src=x onerror=alert(3)>", "</style><b>", "\\", "", "\n", "\t", " end")
CHOICE = {"k": 12, "score": 0.67, "k_min": 4, "k_max": 16,
          "contributions": [{"name": "length", "label": "34 words", "points": 0.17},
                            {"name": "terms", "label": "<b>6 technical terms</b>", "points": 0.44}, {"name": "odd"}],
          "terms": [{"term": "eigen{{7*7}}value", "field": "mathematics", "weight": 1.0}, {}]}


def made_up(seed: int, texts: tuple[str, ...] = REPLY, k: int = K) -> list[Event]:
    """A request whose experts are used unevenly, as real ones are."""
    rng = np.random.default_rng(seed)
    liking = np.stack([rng.permutation(-0.8 * np.log(np.arange(1, EXPERTS + 1))) for _ in range(LAYERS)])

    def route(tokens: int) -> Routing:
        logits = (liking + rng.normal(size=(tokens, LAYERS, EXPERTS))).astype(np.float32)
        probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        selected = np.argsort(-probs, -1)[..., :k]
        return Routing(logits, selected.astype(np.uint8), np.take_along_axis(probs, selected, -1))

    prompt = ("<|user|>", "\n", "Why", "?", "\n")
    return [Started(len(prompt), k, "raw", seed, 512, ()), Prefilled(tuple(range(5)), prompt, route(5)),
            *(Token(i, text, route(1)) for i, text in enumerate(texts)),
            Finished("stop", len(prompt), len(texts), 0.1, 2.0)]


@cache
def trace(seed: int, k: int = K) -> RoutingTrace:
    return record(made_up(seed, k=k))


def demo() -> gr.Blocks:
    with gr.Blocks() as blocks:
        with gr.Row():
            with gr.Column(min_width=300):
                chat = gr.Chatbot(elem_id="chat", render_markdown=False, height=300)
                buttons = {name: gr.Button(name) for name in
                           ("Stream", "First", "Second", "All", "Hostile", "Why", "Empty")}
            with gr.Column(min_width=300):
                view = live_view(INFO)
        kept = gr.State(None)

        def at_once(stream: list[Event], totals: Any, choice: Any = None) -> tuple[Any, ...]:
            live = LiveFrames(INFO, totals, choice=choice)
            for event in stream:
                live.add(event)
            text = "".join(event.text for event in stream if isinstance(event, Token))
            said = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": text}]
            return live.last(), said, live.chat_totals()

        def slowly(totals: Any) -> Iterator[Any]:
            live = LiveFrames(INFO, totals)
            for event in made_up(1):
                time.sleep(0.03)
                if value := live.add(event):
                    yield value
            yield live.last()

        quiet = {"outputs": [view, chat, kept], "show_progress": "hidden"}
        buttons["Stream"].click(slowly, kept, view, show_progress="hidden")
        buttons["First"].click(lambda totals: at_once(made_up(1), totals), kept, **quiet)
        buttons["Second"].click(lambda totals: at_once(made_up(2), totals), kept, **quiet)
        buttons["All"].click(lambda totals: at_once(made_up(1, k=EXPERTS), totals), kept, **quiet)
        buttons["Hostile"].click(lambda totals: (at_once(made_up(3, HOSTILE), totals)[0], [], totals), kept, **quiet)
        buttons["Why"].click(lambda totals: at_once(made_up(1, k=12), totals, CHOICE), kept, **quiet)
        buttons["Empty"].click(lambda: (EMPTY, [], None), None, **quiet)
    return blocks


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    blocks = demo()
    blocks.queue().launch(server_name="127.0.0.1", server_port=port, prevent_thread_lock=True, quiet=True,
                          ssr_mode=False, run_history=False)
    yield f"http://127.0.0.1:{port}/"
    blocks.close()


@pytest.fixture
def view(browser: Any, url: str) -> Iterator[Callable[..., Page]]:
    """view(width, dark) -> the page. Fails on console errors, dialogs and requests to other hosts."""
    contexts, problems = [], []

    def new(width: int = 1280, dark: bool = False) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 1000}, reduced_motion="reduce")
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda line: line.type == "error" and problems.append(line.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: (problems.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda asked: asked.url.startswith((url, "data:", "blob:")) or problems.append(asked.url))
        page.goto(f"{url}?__theme={'dark' if dark else 'light'}")
        expect(page.locator(".lv-caption")).not_to_be_empty(timeout=30_000)
        return page

    yield new
    for context in contexts:
        context.close()
    assert not problems, "\n".join(problems)


# Hands and eyes ------------------------------------------------------------------------------------------------------

def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def reply(page: Page, name: str = "First", tokens: int = 96) -> None:
    """A whole reply at once."""
    press(page, name)
    expect(page.locator("[data-part=reply] [role=option]")).to_have_count(tokens)
    expect(page.locator("[data-part=announce]")).to_have_text(f"The reply has {tokens} tokens.")


def choose(page: Page, name: str) -> None:
    page.get_by_role("radio", name=name, exact=True).check(force=True)


def middle(page: Page, layer: int, expert: int) -> tuple[float, float]:
    """Where a cell is on the screen: margins of 36, 2, 2 and 29 pixels around the cells."""
    box = page.locator(".lv-canvas").bounding_box()
    assert box
    return (box["x"] + 36 + (expert + 0.5) * (box["width"] - 38) / EXPERTS,
            box["y"] + 2 + (layer + 0.5) * (box["height"] - 31) / LAYERS)


def point(page: Page, layer: int, expert: int) -> Any:
    page.locator(".lv-canvas").scroll_into_view_if_needed()
    page.mouse.move(*middle(page, layer, expert))
    return page.locator("[data-part=readout]")


def decimal(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def share(count: int, whole: int) -> str:
    value = 100 * count / whole
    return f"{value:.1f}" if 0 < value < 9.95 and value != int(value) else str(int(value + 0.5))


def sentence(layer: int, expert: int, counts: np.ndarray, weights: np.ndarray, tokens: int) -> str:
    name, count = f"layer {layer}, expert {expert}", counts[layer, expert]
    if not count:
        return f"{name}: 0 of {tokens} tokens; uniform share 12.5 %"
    return (f"{name}: {count} of {tokens} tokens ({share(count, tokens)} %), mean weight "
            f"{decimal(weights[layer, expert] / count)}; uniform share 12.5 %")


def picture(page: Page) -> str:
    return page.locator(".lv-canvas").evaluate("canvas => canvas.toDataURL()")


# Tests --------------------------------------------------------------------------------------------------------------

def test_empty_it_says_what_will_appear(view: Callable[..., Page]) -> None:
    page = view()
    expect(page.locator(".lv-empty")).to_contain_text("every token lights up the experts")
    expect(page.locator(".lv-caption")).to_have_text("16 layers × 64 experts")
    expect(page.locator(".lv-tokens")).to_be_hidden()


def test_it_fills_while_tokens_stream(view: Callable[..., Page]) -> None:
    page = view()
    press(page, "Stream")
    expect(page.locator(".lv-caption")).to_contain_text("of the reply")
    pictures = page.locator(".lv-canvas").evaluate("""canvas => new Promise(done => {
        const seen = new Set(), took = setInterval(() => seen.add(canvas.toDataURL()), 40);
        setTimeout(() => { clearInterval(took); done(seen.size); }, 2000);
    })""")
    assert pictures >= 8, f"{pictures} pictures in two seconds"
    during = page.locator("[data-part=reply] [role=option]").count()
    assert 0 < during < 96
    expect(page.locator("[data-part=reply] [role=option]")).to_have_count(96, timeout=20_000)
    assert "".join(page.locator("[data-part=reply] [role=option]").all_inner_texts()).count("sky") == 7
    expect(page.locator(".lv-empty")).to_be_hidden()


def test_pointing_at_a_cell_names_it_with_its_numbers(view: Callable[..., Page]) -> None:
    page = view()
    reply(page)
    counts, weights = trace(1).expert_counts("decode"), trace(1).expert_weights("decode")
    never = tuple(int(x) for x in np.argwhere(counts == 0)[0])
    for layer, expert in [(7, 23), (0, 0), (15, 63), (3, 40), never]:
        expect(point(page, layer, expert)).to_have_text(sentence(layer, expert, counts, weights, 96))


def test_arrow_keys_do_what_the_pointer_does(view: Callable[..., Page]) -> None:
    page = view()
    reply(page)
    counts, weights = trace(1).expert_counts("decode"), trace(1).expert_weights("decode")
    canvas = page.get_by_role("application", name="16 layers by 64 experts")
    canvas.focus()
    for key in ["ArrowRight"] * 3 + ["ArrowDown"] * 2 + ["ArrowLeft"]:
        canvas.press(key)
    expect(page.locator("[data-part=readout]")).to_have_text(sentence(2, 1, counts, weights, 96))
    expect(page.locator("[data-part=announce]")).to_have_text(sentence(2, 1, counts, weights, 96))
    canvas.press("End")
    canvas.press("ArrowRight")  # stays at the edge
    expect(page.locator("[data-part=readout]")).to_have_text(sentence(2, 63, counts, weights, 96))
    canvas.press("Enter")
    expect(page.locator("[data-part=readout]")).to_contain_text("Pinned: layer 2, expert 63")
    canvas.press("Escape")
    expect(page.locator("[data-part=readout]")).not_to_contain_text("Pinned")
    expect(page.get_by_role("button", name="Release")).to_be_hidden()


def test_a_pinned_expert_shades_the_tokens_it_served(view: Callable[..., Page]) -> None:
    page = view()
    reply(page)
    layer, expert = 5, int(trace(1).expert_counts("decode")[5].argsort()[-4])
    point(page, layer, expert)
    page.mouse.click(*middle(page, layer, expert))
    chosen = trace(1).selected_experts[trace(1).tokens("decode")][:, layer]
    served = [bool((row == expert).any()) for row in chosen]
    shades = page.locator("[data-part=reply] [role=option]").evaluate_all("all => all.map(one => one.dataset.shade)")
    assert [bool(shade) for shade in shades] == served and 0 < sum(served) < 96
    assert len(set(shades)) > 5  # by weight
    expect(page.locator("[data-part=note]")).to_contain_text(
        f"the {sum(served)} of 96 tokens that layer {layer}, expert {expert} worked on")
    page.wait_for_function("CSS.highlights.size > 0")
    in_chat = """() => [1, 2, 3, 4].flatMap(i => [...(CSS.highlights.get(`olmoe-${i}`) ?? [])]).map(String)"""
    assert sorted(page.evaluate(in_chat)) == sorted(
        text.strip() for text, is_served in zip(REPLY, served, strict=True) if is_served)
    page.mouse.click(*middle(page, layer, expert))
    expect(page.locator("[data-part=note]")).not_to_contain_text("Shaded")
    shades = page.locator("[data-part=reply] [role=option]").evaluate_all("all => all.map(one => one.dataset.shade)")
    assert not any(shades)


def test_a_token_shows_its_own_map(view: Callable[..., Page]) -> None:
    page = view()
    reply(page)
    options = page.locator("[data-part=reply] [role=option]")
    options.nth(7).click()
    expect(page.get_by_role("radio", name="This token")).to_be_checked()
    expect(options.nth(7)).to_have_attribute("aria-selected", "true")
    expect(page.locator(".lv-caption")).to_contain_text("short")
    at = trace(1).prompt_tokens + 7
    for layer in (0, 9):
        for rank in (0, 7):
            expert = int(trace(1).selected_experts[at, layer, rank])
            weight = decimal(float(trace(1).routing_weights[at, layer, rank]))
            expect(point(page, layer, expert)).to_contain_text(f"layer {layer}, expert {expert}: weight {weight} for")
            expect(point(page, layer, expert)).to_contain_text(f"rank {rank + 1} of 8")
    unused = next(e for e in range(EXPERTS) if e not in trace(1).selected_experts[at, 0])
    expect(point(page, 0, unused)).to_contain_text("not selected for")
    options.nth(7).click()  # again: back to the reply
    expect(page.get_by_role("radio", name="This reply")).to_be_checked()


def test_tokens_by_keyboard(view: Callable[..., Page]) -> None:
    page = view()
    reply(page)
    assert page.locator("[data-part=reply] [tabindex='0']").count() == 1
    page.locator("[data-part=reply] [tabindex='0']").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.locator("[data-part=reply] [role=option]").nth(2)).to_have_attribute("aria-selected", "true")
    expect(page.locator("[data-part=reply] [role=option]").nth(2)).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("radio", name="This reply")).to_be_checked()


def test_a_token_in_the_chat_can_be_clicked(view: Callable[..., Page]) -> None:
    page = view()
    reply(page)
    place = page.locator('#chat [data-testid="bot"] .message-content')
    expect(place).to_contain_text("The sky is blue")
    spot = place.evaluate("""place => {
        const text = document.createTreeWalker(place, NodeFilter.SHOW_TEXT).nextNode(), range = new Range();
        const at = text.data.indexOf("because");
        range.setStart(text, at); range.setEnd(text, at + 7);
        const box = range.getBoundingClientRect();
        return [box.x + box.width / 2, box.y + box.height / 2];
    }""")
    page.mouse.click(*spot)
    expect(page.locator("[data-part=reply] [role=option]").nth(4)).to_have_attribute("aria-selected", "true")
    page.wait_for_function("CSS.highlights.has('olmoe-token')")
    assert page.evaluate("[...CSS.highlights.get('olmoe-token')].map(String).join('')") == "because"


def test_prompt_reply_and_chat_are_told_apart(view: Callable[..., Page]) -> None:
    page = view()
    reply(page, "First")
    reply(page, "Second")
    choose(page, "Prefill")
    expect(point(page, 4, 4)).to_have_text(
        sentence(4, 4, trace(2).expert_counts("prefill"), trace(2).expert_weights("prefill"), 5))
    choose(page, "Both")
    expect(point(page, 7, 23)).to_have_text(sentence(7, 23, trace(2).expert_counts(), trace(2).expert_weights(), 101))
    choose(page, "This chat")
    both = (trace(1).expert_counts() + trace(2).expert_counts(), trace(1).expert_weights() + trace(2).expert_weights())
    expect(point(page, 7, 23)).to_have_text(sentence(7, 23, *both, 202))
    choose(page, "Decode")
    expect(page.locator(".lv-caption")).to_have_text("192 tokens of all replies in this chat")


def test_figures_are_those_of_the_trace(view: Callable[..., Page]) -> None:
    page = view()
    reply(page)
    figures = dict(page.locator(".lv-figures > div").evaluate_all(
        "all => all.map(row => [row.querySelector('dt').textContent, row.querySelector('dd').textContent])"))
    mass = trace(1).routing_mass("decode").mean()
    assert figures == {
        "Experts per token": "8 of 64", "Active parameters": "9.68M of 31.7M",
        "Routing mass": f"{mass:.2f} of 1".removeprefix("0"),
        "Routing entropy": f"{trace(1).routing_entropy('decode').mean():.2f} of 4.16 nats",
        "Never used": f"{trace(1).never_used('decode')} of 1024"}
    expect(page.get_by_role("img", name="mass over 96 tokens")).to_be_visible()


def test_all_experts(view: Callable[..., Page]) -> None:
    page = view()
    reply(page, "All")
    expect(point(page, 3, 9)).to_contain_text("layer 3, expert 9: 96 of 96 tokens (100 %), mean weight")
    page.locator("[data-part=reply] [role=option]").nth(0).click()
    at, expert = trace(1, EXPERTS).prompt_tokens, int(trace(1, EXPERTS).selected_experts[5, 3, 40])
    weight = decimal(float(trace(1, EXPERTS).routing_weights[at, 3, 40]))
    expect(point(page, 3, expert)).to_contain_text(f"expert {expert}: weight {weight} for")


def test_colour_follows_weights_when_asked(view: Callable[..., Page]) -> None:
    page = view()
    reply(page)
    counts = picture(page)
    expect(page.locator("[data-part=unit]")).to_have_text("tokens per expert")
    choose(page, "Routing weights")
    expect(page.locator("[data-part=unit]")).to_have_text("summed routing weight")
    assert picture(page) != counts
    most = trace(1).expert_weights("decode").max()
    shown = page.locator(".lv-max").inner_text()
    assert float(shown) == pytest.approx(most, rel=0.01)


def test_dark_and_light_follow_the_page(view: Callable[..., Page]) -> None:
    page = view()
    reply(page)
    scale = """canvas => { const d = canvas.getContext('2d').getImageData(0, 0, canvas.width, 1).data;
        return Array.from({length: canvas.width}, (_, i) => .2126 * d[4*i] + .7152 * d[4*i+1] + .0722 * d[4*i+2]); }"""
    light = page.locator("[data-part=scale]").evaluate(scale)
    assert light == sorted(light, reverse=True) and light[0] - light[-1] > 150
    before = picture(page)
    page.evaluate("document.body.classList.add('dark')")
    page.wait_for_function(f"document.querySelector('.lv-canvas').toDataURL() !== {before!r}")
    dark = page.locator("[data-part=scale]").evaluate(scale)
    assert all(b >= a - 0.5 for a, b in zip(dark, dark[1:], strict=False)) and dark[-1] - dark[0] > 150


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone(view: Callable[..., Page], dark: bool) -> None:
    page = view(390, dark)
    reply(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    box = page.locator(".lv-canvas").bounding_box()
    assert box and (box["width"] - 38) / EXPERTS > 3.5 and box["x"] >= 0 and box["x"] + box["width"] <= 390
    expect(point(page, 7, 23)).to_contain_text("layer 7, expert 23:")


def test_hostile_texts_are_only_text(view: Callable[..., Page]) -> None:
    page = view()
    reply(page, "Hostile", len(HOSTILE))
    options = page.locator("[data-part=reply] [role=option]")
    texts = options.evaluate_all("all => all.map(one => one.textContent)")
    assert texts == [*HOSTILE[:4], "␀", "\ufffd", "שלום", "[202e]", *HOSTILE[8:11], "·", "↵\n", "⇥", " end"]
    assert page.locator("[data-part=reply] > :not([role=option]), [data-part=reply] [role=option] *").count() == 0
    for i in range(len(HOSTILE)):  # every place that quotes a token
        options.nth(i).click()
        point(page, 1, 1)
    assert page.locator(".lv script, .lv img").count() == 0
    assert "49" not in page.locator(".lv-caption, [data-part=readout]").all_inner_texts()


def test_why_this_k(view: Callable[..., Page]) -> None:
    page = view()
    reply(page, "Why")
    card = page.get_by_role("region", name="Why this k")
    expect(card).to_contain_text("Why k = 12")
    expect(card).to_contain_text("<b>6 technical terms</b>")
    expect(card).to_contain_text("+.44")
    expect(card).to_contain_text("eigen{{7*7}}value")
    expect(card).to_contain_text("score .67 → k = 12 between 4 and 16")
    reply(page, "First")
    expect(card).to_be_hidden()


def test_clearing_forgets_everything(view: Callable[..., Page]) -> None:
    page = view()
    empty = picture(page)
    reply(page)
    page.locator("[data-part=reply] [role=option]").nth(3).click()
    page.mouse.click(*middle(page, 2, 2))
    press(page, "Empty")
    expect(page.locator(".lv-empty")).to_be_visible()
    expect(page.locator(".lv-tokens")).to_be_hidden()
    page.mouse.move(2, 2)
    page.locator(".lv-canvas").blur()
    page.wait_for_function(f"document.querySelector('.lv-canvas').toDataURL() === {empty!r}")
    reply(page)
    choose(page, "This chat")
    expect(page.locator(".lv-caption")).to_have_text(re.compile("^96 tokens"))
