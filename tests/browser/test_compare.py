"""Compare and the truth meter as a visitor has them, over the embedded model."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from .chatting import ask

pytestmark = pytest.mark.browser
STORY = "Tell me a story about a fox with a bell on its tail."


class Tab:
    """The tab in a visitor's words."""

    def __init__(self, page: Page) -> None:
        self.page = page
        page.get_by_role("tab", name="Compare").click(timeout=60_000)
        self.run, self.stop = page.locator("#compare-run"), page.locator("#compare-stop")
        self.doing = page.locator("#compare-view .cmp-doing")
        self.columns = page.locator("#compare-view .cmp-column")

    def tokens(self, number: int) -> None:
        self.page.locator("#compare-sampling button").first.click()
        self.page.locator("#compare-tokens input").fill(str(number))

    def compare(self, tokens: int = 24) -> None:
        self.tokens(tokens)
        self.run.click()
        expect(self.doing).to_contain_text("Seed", timeout=120_000)
        expect(self.run).to_be_visible()

    def measure(self) -> Locator:
        self.page.locator("#truth-run").click()
        expect(self.page.locator("#truth-plot img")).to_be_visible(timeout=120_000)
        return self.page.locator("#truth-view")


@pytest.mark.parametrize("look", [{"width": 1440}, {"dark": True, "width": 390, "height": 844}], ids=["wide", "phone"])
def test_columns_part_and_the_truth_meter_measures(open_page: Callable[..., Any], look: dict[str, Any]) -> None:
    tab = Tab(open_page(**look))
    tab.compare()
    expect(tab.columns).to_have_count(4)
    expect(tab.columns.locator("h3")).to_have_text(["k=8", "k=16", "k=32", "k=64"])
    expect(tab.columns.locator("mark")).to_have_count(4)
    for column in tab.columns.all():
        expect(column).to_contain_text(re.compile(r"active parameters\d+(\.\d+)?M"))
        expect(column).to_contain_text("24 tokens")
    why = tab.page.locator(".cmp-why")
    expect(why).to_contain_text("Where they part")
    expect(why.locator(".cmp-taken")).to_have_count(4)
    expect(why.locator(".cmp-summary")).to_contain_text(re.compile(r"\d+ used by both, \d+ only by k=8, \d+ only by"))
    truth = tab.measure()
    expect(truth.locator(".cmp-verdict")).to_contain_text(re.compile(r"^On this text k=16 .* nats a token"))
    truth.locator("[role=option]").first.focus()
    tab.page.keyboard.press("ArrowRight")
    expect(truth.locator("[role=option]").nth(1)).to_be_focused()
    expect(truth.locator(".cmp-readout")).to_contain_text(re.compile(r"nats at k=16, .* at k=8 \([+−]"))
    truth.locator(".cmp-k").select_option("8")
    expect(truth.locator(".cmp-verdict")).to_contain_text("the model's own")
    assert tab.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    with tab.page.expect_download() as download:
        tab.page.locator("#truth-svg").click()
    assert "nats a token" in download.value.path().read_text()


def test_stop_keeps_what_there_is(page: Page) -> None:
    tab = Tab(page)
    page.locator("#compare-prompt textarea").fill("a" * 21)  # to which olmoe-tiny at k=16 finds no end
    tab.tokens(400)
    tab.run.click()
    column = tab.columns.nth(1)
    expect(column.locator(".cmp-text")).to_contain_text(re.compile(r"\w"), timeout=60_000)
    tab.stop.click()
    expect(tab.doing).to_contain_text("Stopped", timeout=60_000)
    expect(tab.run).to_be_visible()
    expect(column).to_contain_text("stopped")
    expect(column.locator(".cmp-text")).to_contain_text(re.compile(r"\w"))


def test_a_setting_that_cannot_be_is_said_in_words(page: Page) -> None:
    tab = Tab(page)
    page.locator("#compare-k-1 input").fill("99")
    page.locator("#compare-k-1 input").press("Enter")
    tab.run.click()
    expect(page.locator("#compare-error [role=alert]")).to_contain_text("from 1 to 64")


def test_a_chat_reply_opens_here_with_one_click(page: Page) -> None:
    ask(page, "What is <b>water</b>?")
    page.get_by_role("button", name="Open this reply in Compare").click(timeout=120_000)
    tab = Tab(page)
    expect(page.locator("#compare-prompt textarea")).to_have_value("What is <b>water</b>?")
    expect(page.locator("#truth-source input")).to_have_value("the chat's reply at k=8")
    truth = tab.measure()
    said = page.locator("#chat [data-testid=bot]").last.text_content() or ""
    assert " ".join(said.split()) == " ".join("".join(truth.locator("[role=option]").all_text_contents())
                                              .replace("⏎", "").replace("␣", " ").split())
