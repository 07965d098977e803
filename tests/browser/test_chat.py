"""The chat as a visitor has it, over a scripted model: what is shown, what is kept, what is stopped."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from olmoe_space.trace import load_npz
from olmoe_space.ui.chat import EXAMPLES
from tests.scripted import HOSTILE, ScriptedServer, serve_scripted

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    with serve_scripted() as running:
        yield running


@pytest.fixture
def slow(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> ScriptedServer:
    """The server at five tokens a second: on a busy machine, too, a long reply is still running when it is stopped."""
    monkeypatch.setattr(server.model, "s_per_token", 0.2)
    return server


class Visitor:
    """The page in a visitor's words."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.box = page.get_by_label("Message", exact=True)
        self.send_button = page.get_by_role("button", name="Send", exact=True)
        self.stop_button = page.get_by_role("button", name="Stop", exact=True)
        self.error = page.locator("#message-error [role=alert]")
        expect(self.send_button).to_be_visible(timeout=30_000)

    @property
    def questions(self) -> Locator:
        return self.page.locator("#chat .user-row [data-testid=user]")

    @property
    def replies(self) -> Locator:
        return self.page.locator("#chat .bot-row [data-testid=bot]")

    @property
    def notes(self) -> Locator:
        return self.page.locator("#chat .reply-note")

    def ask(self, text: str) -> None:
        self.box.fill(text)
        self.box.press("Enter")

    def set_field(self, label: str, value: str) -> None:
        """Fills a field until it holds: one that has only just been unfolded may still be given its first value."""
        field = self.page.get_by_label(label)
        for _ in range(10):
            field.fill(value)
            field.blur()
            self.page.wait_for_timeout(100)
            if field.input_value() == value:
                return
        raise AssertionError(f"{label} does not keep {value!r}; it holds {field.input_value()!r}")

    def ask_and_wait(self, text: str) -> None:
        before = self.replies.count()
        self.ask(text)
        expect(self.replies).to_have_count(before + 1)
        self.wait()

    def wait(self) -> None:
        expect(self.notes.last).to_contain_text("mass", timeout=60_000)
        expect(self.send_button).to_be_visible()

    def action(self, name: str) -> Locator:
        return self.page.locator("#chat").get_by_role("button", name=name).last


@pytest.fixture
def visitor(open_page: Callable[..., Page]) -> Visitor:
    return Visitor(open_page())


def test_a_question_is_answered_as_it_streams(visitor: Visitor, server: ScriptedServer) -> None:
    visitor.ask("A long one, please")
    expect(visitor.questions).to_have_text(["A long one, please"])
    expect(visitor.box).to_have_value("")
    expect(visitor.replies.first).to_contain_text("on and")
    expect(visitor.stop_button).to_be_visible()
    short = len(visitor.replies.first.inner_text())
    visitor.page.wait_for_function("(n) => document.querySelector('#chat [data-testid=bot]').innerText.length > n + 40",
                                   arg=short)
    visitor.wait()
    expect(visitor.notes).to_have_text([re.compile(r"^k 8 · \d+ tok/s · \d\.\d s to first token · mass \.\d\d$")])
    expect(visitor.page.locator("#reply-summary")).to_contain_text("seed 7 · 4 prompt + 193 new tokens · raw weights")


def test_stop_halts_the_computation(visitor: Visitor, slow: ScriptedServer) -> None:
    visitor.ask("A long one")
    expect(visitor.replies.first).to_contain_text("on and")
    assert slow.model.running == 1
    visitor.stop_button.click()
    expect(visitor.send_button).to_be_visible()
    assert slow.model.running == 0
    expect(visitor.notes.last).to_contain_text("· stopped")
    expect(visitor.questions).to_have_count(1)
    text = visitor.replies.first.inner_text()
    visitor.page.wait_for_timeout(300)
    assert visitor.replies.first.inner_text() == text and len(text) < 500


def test_closing_the_page_halts_the_computation(open_page: Callable[..., Page], slow: ScriptedServer) -> None:
    leaving = Visitor(open_page())
    leaving.ask("A long one")
    expect(leaving.replies.first).to_contain_text("on and")
    leaving.page.close()
    for _ in range(50):
        if slow.model.running == 0:
            return
        Visitor(open_page()).page.wait_for_timeout(100)
    raise AssertionError("the computation went on")


def test_retry_asks_the_same_again(visitor: Visitor, server: ScriptedServer) -> None:
    visitor.ask_and_wait("One")
    visitor.ask_and_wait("Two")
    asked = len(server.model.asked)
    visitor.action("Retry").click()
    expect(visitor.replies).to_have_count(2)
    for _ in range(100):
        if len(server.model.asked) > asked:
            break
        visitor.page.wait_for_timeout(50)
    visitor.wait()
    assert len(server.model.asked) == asked + 1
    assert [m.content for m in server.model.asked[-1].messages] == ["One", "You said: One", "Two"]


def test_edit_asks_anew_from_there(visitor: Visitor, server: ScriptedServer) -> None:
    visitor.ask_and_wait("One & <b>two</b> &lt;")
    visitor.action("Edit").click()
    editor = visitor.page.get_by_label("Edit your message")
    expect(editor).to_have_value("One & <b>two</b> &lt;")
    editor.fill("Three <i>and</i> &amp; four")
    visitor.action("Submit").click()
    expect(visitor.questions).to_have_text(["Three <i>and</i> &amp; four"])
    expect(visitor.replies).to_have_text(["You said: Three <i>and</i> &amp; four"])
    visitor.wait()
    assert [m.content for m in server.model.asked[-1].messages] == ["Three <i>and</i> &amp; four"]


def test_an_edit_that_cannot_be_asked_changes_nothing(visitor: Visitor) -> None:
    visitor.ask_and_wait("One <b>")
    visitor.action("Edit").click()
    visitor.page.get_by_label("Edit your message").fill("   ")
    visitor.action("Submit").click()
    expect(visitor.error).to_contain_text("empty")
    expect(visitor.questions).to_have_text(["One <b>"])
    expect(visitor.replies).to_have_count(1)


def test_undo_gives_the_question_back(visitor: Visitor) -> None:
    visitor.ask_and_wait("One")
    visitor.ask_and_wait("Two <b>")
    visitor.action("Undo").click()
    expect(visitor.questions).to_have_text(["One"])
    expect(visitor.box).to_have_value("Two <b>")


def test_clear_while_a_reply_streams(visitor: Visitor, slow: ScriptedServer) -> None:
    visitor.ask("A long one")
    expect(visitor.replies.first).to_contain_text("on and")
    visitor.page.locator("#chat").get_by_role("button", name="Clear").click()
    expect(visitor.questions).to_have_count(0)
    expect(visitor.send_button).to_be_visible()
    visitor.page.wait_for_timeout(500)
    expect(visitor.questions).to_have_count(0)
    assert slow.model.running == 0
    visitor.ask_and_wait("Again")
    assert [m.content for m in slow.model.asked[-1].messages] == ["Again"]


def test_an_example_is_asked_at_once(visitor: Visitor, server: ScriptedServer) -> None:
    assert len(EXAMPLES) == 6
    visitor.page.get_by_role("button", name=f"Select example 4: {EXAMPLES[3]}").click()
    expect(visitor.replies).to_have_text([f"You said: {EXAMPLES[3]}"])


def test_shift_enter_makes_a_line(visitor: Visitor, server: ScriptedServer) -> None:
    visitor.box.fill("One")
    visitor.box.press("Shift+Enter")
    visitor.box.press_sequentially("Two")
    visitor.send_button.click()
    visitor.wait()
    assert server.model.asked[-1].prompt == "One\nTwo"


@pytest.mark.parametrize("text, words", [
    ("   ", "empty"),
    ("\u200b\u2060", "invisible"),
    ("please refuse", "2,000 tokens"),
    ("<b>{{7*7}}</b> " * 3000, "45,000 characters"),
])
def test_a_bad_message_costs_nothing(visitor: Visitor, text: str, words: str) -> None:
    visitor.ask_and_wait("One")
    visitor.ask(text)
    expect(visitor.error).to_contain_text(words)
    expect(visitor.box).to_have_value(text)
    expect(visitor.questions).to_have_text(["One"])
    expect(visitor.replies).to_have_text(["You said: One"])
    expect(visitor.send_button).to_be_visible()
    visitor.ask_and_wait("Two")
    expect(visitor.error).to_be_hidden()


@pytest.mark.parametrize("label, value, words", [
    ("Temperature", "-1", "at least 0"), ("Top-p", "0", "above 0"), ("Max new tokens", "5000", "1024; got 5000"),
    ("Max new tokens", "0", "got 0"), ("Seed", "<b>lucky</b>", "got '<b>lucky</b>'"),
])
def test_a_bad_setting_costs_nothing(visitor: Visitor, label: str, value: str, words: str) -> None:
    visitor.page.get_by_role("button", name="System prompt and sampling").click()
    visitor.set_field(label, value)
    visitor.ask("Hello")
    expect(visitor.error).to_contain_text(words)
    expect(visitor.box).to_have_value("Hello")
    expect(visitor.questions).to_have_count(0)


def test_a_failure_in_the_middle_is_told_and_can_be_retried(visitor: Visitor) -> None:
    visitor.ask("break")
    expect(visitor.notes.last).to_contain_text("The reply ended early: RuntimeError: the device <b>went</b> away.")
    expect(visitor.replies.last).to_contain_text("It began well")
    visitor.action("Retry").click()
    expect(visitor.notes.last).to_contain_text("ended early")
    expect(visitor.questions).to_have_count(1)


def test_hostile_text_is_text_everywhere(visitor: Visitor) -> None:
    page = visitor.page
    page.get_by_role("button", name="System prompt and sampling").click()
    page.get_by_label("System prompt").last.fill(HOSTILE)
    visitor.ask_and_wait(f"hostile {HOSTILE}")
    expect(visitor.questions).to_have_text([f"hostile {HOSTILE}"])
    expect(visitor.replies).to_have_text([HOSTILE])
    assert page.evaluate("window.hacked") is None
    assert page.locator("#chat b, #chat i, #chat script").count() == 0
    page.get_by_text("why this model?").click()
    expect(page.get_by_text("{{7*7}} <i>so</i> the small model")).to_be_visible()


def test_code_keeps_its_indentation_and_is_copied_as_it_is(open_page: Callable[..., Page]) -> None:
    visitor = Visitor(open_page(permissions=["clipboard-read", "clipboard-write"]))
    visitor.ask_and_wait("code")
    code = "def f(x):\n    return x < 2 and x<b"
    assert visitor.replies.first.inner_text() == code
    visitor.action("Copy").click()
    visitor.page.wait_for_timeout(200)
    assert visitor.page.evaluate("navigator.clipboard.readText()") == code


def test_k_is_set_by_slider_scale_and_number(visitor: Visitor, server: ScriptedServer) -> None:
    number = visitor.page.get_by_label("number input for Active experts (k)")
    expect(number).to_have_value("8")
    visitor.page.get_by_role("button", name="Set k to 32").click()
    expect(number).to_have_value("32")
    visitor.ask_and_wait("Hello")
    expect(visitor.notes.last).to_contain_text("k 32 ·")
    number.fill("3.5")
    visitor.ask("Hello")
    expect(visitor.error).to_contain_text("whole number from 1 to 64; got 3.5")


def test_adaptive_mode_chooses_k_and_says_why(visitor: Visitor, server: ScriptedServer) -> None:
    page = visitor.page
    page.get_by_role("radio", name="Adaptive").check()
    expect(page.get_by_label("k min")).to_have_value("4")
    visitor.ask_and_wait("Prove that every eigenvalue of a unitary matrix has modulus one.")
    k = server.model.asked[-1].routing.num_experts_per_tok
    assert 4 < int(k) <= 16
    expect(visitor.notes.last).to_contain_text(f"k {k} ·")
    expect(page.get_by_text(f"Why k = {k}")).to_be_visible()
    page.get_by_label("k min").fill("20")
    visitor.ask("Hello")
    expect(visitor.error).to_contain_text("k_min (20) must not be larger than k_max (16)")
    page.get_by_role("radio", name="Fixed").check()
    visitor.ask_and_wait("Hello")  # a slip in a hidden field stops nobody
    expect(visitor.notes.last).to_contain_text("k 8 ·")


def test_settings_are_the_visitors_own(open_page: Callable[..., Page], server: ScriptedServer) -> None:
    one, other = Visitor(open_page()), Visitor(open_page())
    one.page.get_by_role("button", name="Set k to 64").click()
    one.page.get_by_role("radio", name="Mass-preserving").check()
    one.ask_and_wait("One")
    assert server.model.asked[-1].routing.weighting == "mass_preserving"
    other.ask_and_wait("Other")
    routing = server.model.asked[-1].routing
    assert routing.num_experts_per_tok == 8 and routing.weighting == "raw"


def test_figure_and_trace_can_be_downloaded(visitor: Visitor, tmp_path: Path) -> None:
    visitor.ask_and_wait("Hello there")
    files = {}
    for kind in ("PNG", "SVG", "NPZ", "JSON"):
        with visitor.page.expect_download() as download:
            visitor.page.get_by_role("button", name=kind, exact=True).click()
        files[kind] = tmp_path / download.value.suggested_filename
        download.value.save_as(files[kind])
    assert files["PNG"].read_bytes().startswith(b"\x89PNG") and b"<svg" in files["SVG"].read_bytes()
    assert load_npz(files["NPZ"].read_bytes()).text("decode") == "You said: Hello there"
    assert json.loads(files["JSON"].read_text())["num_experts"] == 64
    visitor.page.get_by_role("button", name="Figures of this reply").click()
    expect(visitor.page.locator("#heatmap-figure img")).to_be_visible()


def test_a_full_disk_is_told_and_the_next_download_works(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    visitor.ask_and_wait("Hello there")
    write, full = Path.write_bytes, Path("/dev/full")  # the kernel itself says there: no space left on device
    with monkeypatch.context() as disk:
        disk.setattr(Path, "write_bytes", lambda path, content: write(full, content))
        visitor.page.get_by_role("button", name="JSON", exact=True).click()
        expect(visitor.page.get_by_text("the server's disk is full")).to_be_visible()
    expect(visitor.replies).to_have_text(["You said: Hello there"])
    with visitor.page.expect_download() as download:
        visitor.page.get_by_role("button", name="JSON", exact=True).click()
    assert json.loads(download.value.path().read_text())["num_experts"] == 64
    visitor.ask_and_wait("And now?")


def test_the_place_in_the_queue_is_shown(open_page: Callable[..., Page]) -> None:
    with serve_scripted(max_concurrent_chats=1) as busy:
        first, second, third = (Visitor(open_page(busy.url)) for _ in range(3))
        busy.model.s_per_token = 0.2
        first.ask("A long one")
        expect(first.replies.first).to_contain_text("on and")
        second.ask("And mine?")
        expect(second.page.locator("#queue-place [role=status]")).to_have_text("Waiting for your turn: you are next.")
        third.ask("And mine too?")
        waiting = third.page.locator("#queue-place [role=status]")
        expect(waiting).to_have_text("Waiting for your turn: 1 ahead of you.")
        second.stop_button.click()  # before it has begun
        expect(second.box).to_have_value("And mine?")
        expect(second.questions).to_have_count(0)
        busy.model.s_per_token = 0.01
        first.stop_button.click()
        expect(first.send_button).to_be_visible()
        third.wait()
        expect(waiting).to_be_hidden()
        second.ask_and_wait("And mine?")
        assert [r.prompt for r in busy.model.asked] == ["A long one", "And mine too?", "And mine?"]


def test_a_full_queue_refuses_and_stop_still_works(open_page: Callable[..., Page], browser: Browser) -> None:
    with serve_scripted(max_concurrent_chats=1, max_queue=1) as busy:
        first, second = (Visitor(open_page(busy.url)) for _ in range(2))
        refused = browser.new_page()  # not open_page: a refused request is an error in the console
        refused.goto(busy.url)
        third = Visitor(refused)
        busy.model.s_per_token = 0.2
        first.ask("A long one")
        expect(first.replies.first).to_contain_text("on and")
        second.ask("And mine?")
        expect(second.page.locator("#queue-place")).to_contain_text("you are next")
        third.ask("And mine too?")
        expect(third.error).to_contain_text("Too many are waiting")
        expect(refused.get_by_text("Error", exact=True).locator("visible=true")).to_have_count(0, timeout=20_000)
        expect(third.box).to_have_value("And mine too?")
        expect(third.questions).to_have_count(0)
        busy.model.s_per_token = 0.01
        first.stop_button.click()
        expect(first.notes.last).to_contain_text("· stopped")
        second.wait()
        third.box.press("Enter")
        third.wait()
        expect(third.error).to_be_hidden()
        refused.close()


@pytest.mark.parametrize("width, dark", [(390, True), (1440, False)])
def test_a_stand_in_says_how_to_get_the_real_model(open_page: Callable[..., Page], width: int, dark: bool) -> None:
    page = Visitor(open_page(width=width, dark=dark)).page
    card = page.locator(".stand-in")
    expect(card).to_contain_text("This is olmoe-tiny, small and simple: there is no GPU here")
    expect(card.locator("code")).to_have_text("OLMOE_MODEL=allenai/OLMoE-1B-7B-0125-Instruct make run")
    above, box = card.bounding_box(), page.locator("#message").bounding_box()
    assert above and box and above["height"] < 180 and above["y"] + above["height"] < box["y"]
    assert box["y"] + box["height"] <= 900  # what it takes of the page's height does not push the message out of it
    page.get_by_role("tab", name="How it works").click()
    expect(card).to_be_hidden()


@pytest.mark.parametrize("width, dark", [(390, False), (390, True), (1024, False), (1440, True)])
def test_the_page_fits(open_page: Callable[..., Page], width: int, dark: bool) -> None:
    visitor = Visitor(open_page(width=width, dark=dark))
    visitor.ask_and_wait("word" * 60)
    page = visitor.page
    page.get_by_role("button", name="System prompt and sampling").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    chat, view = (page.locator(where).bounding_box() for where in ("#chat", "#live-view"))
    assert chat and view
    assert (view["x"] > chat["x"] + chat["width"]) if width >= 1024 else (view["y"] > chat["y"] + chat["height"])
    assert page.evaluate("document.body.classList.contains('dark')") is dark
    page.get_by_role("tab", name="How it works").click()
    expect(page.get_by_role("img", name="How one token passes")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_keyboard_reaches_what_matters(visitor: Visitor) -> None:
    expect(visitor.box).to_be_focused()
    visitor.box.fill("Hello")
    reached: list[Any] = []
    for _ in range(14):
        visitor.page.keyboard.press("Tab")
        reached.append(visitor.page.evaluate("(document.activeElement.ariaLabel || document.activeElement.innerText ||"
                                             " document.activeElement.value || '').trim()"))
    assert reached[0] == "Send"
    for name in ("fixed", "range slider for Active experts (k)", "Set k to 16", "raw"):
        assert name in reached, reached
