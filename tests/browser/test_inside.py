"""Inside a token, in a real browser, with the embedded model behind it."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from .chatting import ask_and_wait

pytestmark = pytest.mark.browser


class Walker:
    """The tab in a visitor's words."""

    def __init__(self, page: Page) -> None:
        self.page = page
        tab = page.get_by_role("tab", name="Inside a token")
        if not tab.is_visible():  # on a phone the last tabs wait behind a button
            expect(page.get_by_label("Message", exact=True)).to_be_visible(timeout=60_000)
            if not tab.is_visible():
                page.locator("#tabs .overflow-menu > button").click()
                tab = page.locator("#tabs .overflow-dropdown button", has_text="Inside a token")
        tab.click()
        opened = time.monotonic()
        self.view = page.locator("#inside")
        self.title = self.view.get_by_role("heading", level=2)
        self.text = self.view.get_by_label("Text", exact=True)
        expect(self.title).to_have_text("Text to tokens", timeout=30_000)
        self.first_result_s = time.monotonic() - opened

    def step(self, name: str, nth: int = 0) -> None:
        self.view.get_by_role("navigation").get_by_role("button", name=name, exact=True).nth(nth).click()
        expect(self.title).to_have_text(name)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    @property
    def place(self) -> Locator:
        return self.view.locator(".in-place")

    @property
    def rows(self) -> Locator:
        return self.view.locator(".in-show tbody tr")


LOOKS = [{"width": 1440}, {"dark": True, "width": 1024}, {"width": 390, "height": 844}]


@pytest.mark.parametrize("look", LOOKS, ids=["laptop", "dark", "phone"])
def test_every_step_of_the_first_text(open_page: Any, look: dict[str, Any]) -> None:
    page = open_page(**look)
    walker = Walker(page)
    assert walker.first_result_s < 3
    expect(walker.rows).to_have_count(7)
    checked = 0
    for i in range(15):
        expect(walker.place).to_contain_text(f"Step {i + 1} of 15")
        assert walker.view.locator(".in-shape").inner_text() and walker.view.locator(".in-show").inner_text()
        checked += "✓ Checked" in walker.view.locator(".in-check").inner_text()
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        expect(walker.view.locator(".in-flow [aria-current]")).to_have_count(1)
        if i < 14:
            walker.view.get_by_role("button", name="Next", exact=True).click()
    assert checked == 6
    expect(walker.view.get_by_role("button", name="Next", exact=True)).to_be_disabled()


def test_arrow_keys_move_through_steps_layers_and_tokens(page: Page) -> None:
    walker = Walker(page)
    walker.step("Norm")
    walker.press("ArrowDown", "ArrowDown", "ArrowUp", "ArrowRight")
    expect(walker.title).to_have_text("Attention")
    expect(walker.place).to_contain_text("layer 1 of 16, token 6")
    walker.press("Shift+ArrowLeft", "Shift+ArrowLeft")
    expect(walker.place).to_contain_text("layer 1 of 16, token 4")
    expect(walker.rows).to_have_count(5)  # only the tokens so far
    walker.press("End", "ArrowRight")
    expect(walker.title).to_have_text("Next token")


def test_the_selection_tells_what_other_k_would_take(page: Page) -> None:
    walker = Walker(page)
    walker.view.get_by_role("slider", name="Active experts (k)").fill("4")
    walker.step("Selection")
    expect(walker.rows).to_have_count(3)
    experts = [row.locator("td").nth(2).inner_text().split() for row in walker.rows.all()]
    assert [len(e) for e in experts] == [4, 8, 16]
    assert experts[0] == experts[1][:4] and experts[1] == experts[2][:8]
    masses = [float(row.locator("td").nth(1).inner_text()) for row in walker.rows.all()]
    assert masses == sorted(masses)


def test_temperature_and_top_p_act_at_once(page: Page) -> None:
    walker = Walker(page)
    walker.step("Next token")
    first = walker.rows.first.locator("td")
    before = first.nth(1).inner_text()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "queue/join" in request.url else None)
    walker.view.get_by_role("slider", name="Temperature").fill("0.5")
    assert first.nth(1).inner_text() != before
    walker.view.get_by_role("slider", name="Top-p").fill("0.05")
    expect(first.nth(3)).to_have_text("100.0 %")
    expect(walker.rows.nth(1).locator("td").nth(3)).to_have_text("left out")
    assert not asked


def test_hostile_text_stays_text_and_refusals_keep_it(page: Page) -> None:
    walker = Walker(page)
    hostile = "<img src=x onerror=alert(1)> {{7*7}} ${alert(2)}"
    walker.text.fill(hostile)
    walker.text.press("Enter")
    expect(walker.view.locator(".in-tokens button").nth(7)).to_be_visible()
    expect(walker.rows.first.locator("td").nth(1)).to_have_text(re.compile("^<"))
    assert walker.view.locator("img").count() == 0
    walker.text.fill("word " * 300)
    walker.text.press("Enter")
    expect(walker.view.get_by_role("alert")).to_contain_text("at most 256")
    assert walker.text.input_value() == "word " * 300
    walker.text.fill("  ")
    walker.text.press("Enter")
    expect(walker.view.get_by_role("alert")).to_contain_text("empty")
    walker.text.fill("fine")
    walker.text.press("Enter")
    expect(walker.view.get_by_role("alert")).to_be_hidden()


def test_a_chat_reply_opens_here(page: Page) -> None:
    ask_and_wait(page, "hi")
    page.get_by_role("button", name="Open this reply in Inside a token").click()
    view = page.locator("#inside")
    expect(view.locator(".in-tokens button", has_text="hi").first).to_be_visible(timeout=30_000)
    assert "hi" in view.get_by_label("Text", exact=True).input_value()
    assert view.locator(".in-tokens button").count() > 8  # the question, its role tags and the reply
