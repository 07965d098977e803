"""Experts, in a real browser, with the embedded model behind it."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from .chatting import ask
from .tabs import open_tab

pytestmark = pytest.mark.browser
SLOW = 240_000  # ms; a busy machine


class Visitor:
    """The tab in a visitor's words."""

    def __init__(self, page: Page) -> None:
        self.page = page
        open_tab(page, "Experts")
        self.view = page.locator("#experts-view")
        self.map = self.view.locator("canvas").first
        self.title = self.view.locator("article h2")

    def part(self, name: str) -> Any:
        return self.view.locator(f"[data-part={name}]")

    def fill(self, name: str, text: str) -> None:
        """Fills a field until it holds."""
        field = self.page.locator(f"#{name} textarea")
        for _ in range(10):
            field.fill(text)
            self.page.wait_for_timeout(100)
            if field.input_value() == text:
                return
        raise AssertionError(f"{name} does not keep {text!r}")

    def survey(self) -> None:
        self.page.locator("#survey-run").click()
        expect(self.part("body")).to_be_visible(timeout=SLOW)

    def no_sideways_scroll(self) -> bool:
        return bool(self.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


LOOKS = [{"width": 1440}, {"dark": True, "width": 1024}, {"width": 390, "height": 844}]


@pytest.mark.parametrize("look", LOOKS, ids=["laptop", "dark", "phone"])
def test_a_text_is_surveyed_and_an_expert_has_its_page(open_page: Any, look: dict[str, Any]) -> None:
    visitor = Visitor(open_page(**look))
    visitor.survey()
    expect(visitor.part("map-note")).to_contain_text(re.compile(r"^\d+ tokens of this text, k = 8\."))
    expect(visitor.title).to_have_text(re.compile(r"^Layer \d+, expert \d+$"))
    visitor.map.focus()
    for _ in range(16):
        visitor.page.keyboard.press("ArrowUp")
    visitor.page.keyboard.press("Enter")
    expect(visitor.title).to_have_text(re.compile(r"^Layer 0, expert \d+$"))
    expect(visitor.part("page-body")).to_contain_text("Published: OLMoE-1B-7B-0924")
    expect(visitor.part("page-body")).to_contain_text("Another model than olmoe-tiny")
    expect(visitor.part("page-body").locator(".ex-bars > span", has_text="GitHub")).to_be_visible()
    visitor.view.get_by_text("Layer by layer").click()
    expect(visitor.part("layers").locator("tr")).to_have_count(17)
    visitor.part("pairs-title").click()
    expect(visitor.part("pairs-readout")).to_contain_text(re.compile("Most often|No two"))
    assert visitor.no_sideways_scroll()


def test_two_texts_are_compared_and_stay_text(page: Page, tmp_path: Path) -> None:
    visitor = Visitor(page)
    hostile = "<img src=x onerror=alert(1)> {{7*7}} ${alert(2)}"
    visitor.fill("survey-text", hostile)
    visitor.fill("survey-other", "The moon rose over the sea.")
    visitor.survey()
    expect(visitor.part("overlap")).to_contain_text("Jensen–Shannon divergence 0.")
    visitor.part("source").select_option("the other text")
    expect(visitor.part("map-note")).to_contain_text("tokens of the other text")
    assert visitor.view.locator("img").count() == 0
    with page.expect_download(timeout=SLOW) as download:
        page.locator("#experts-csv").click()
    download.value.save_as(tmp_path / "numbers.csv")
    rows = list(csv.reader((tmp_path / "numbers.csv").open()))
    assert {row[1] for row in rows[1:]} == {"this text", "the other text"} and len(rows) == 1 + 2 * 16 * 64
    visitor.fill("survey-text", "   ")
    page.locator("#survey-run").click()
    expect(page.locator("#survey-error")).to_contain_text("empty")
    expect(visitor.part("body")).to_be_visible()


def test_stop_keeps_what_was_read(page: Page) -> None:
    visitor = Visitor(page)
    page.locator("#study-run").click()
    expect(visitor.part("doing")).to_contain_text("Reading dialogue: 1 of 7 domains", timeout=SLOW)
    expect(visitor.part("page-body")).to_contain_text("by domain")
    page.locator("#study-stop").click()
    expect(visitor.part("claims-note")).to_contain_text("stopped before all were read", timeout=SLOW)
    expect(visitor.part("claims-table").locator("tr")).to_have_count(7)  # six measures of the five claims
    expect(page.locator("#study-run")).to_be_visible()
    expect(visitor.part("map-note")).to_contain_text("tokens of the sample")


def test_a_chat_reply_opens_here(page: Page) -> None:
    ask(page, "hi")
    expect(page.locator("#chat .reply-note").last).to_contain_text("mass", timeout=SLOW)
    page.get_by_role("button", name="Open this reply in Experts").click()
    expect(page.locator("#experts-view [data-part=map-note]")).to_contain_text("of the chat's reply at k=8",
                                                                              timeout=SLOW)


def test_an_expert_is_muted_beside_the_original_and_a_control(page: Page) -> None:
    visitor = Visitor(page)
    page.locator("#mute-run").click()
    expect(page.locator("#mute-error")).to_contain_text("Press Survey")
    visitor.survey()
    visitor.map.click(position={"x": 300, "y": 8})
    expect(visitor.title).to_have_text(re.compile("^Layer 0, "))
    expert = visitor.title.inner_text().split()[-1]
    expect(page.locator("#mute-expert input")).to_have_value(expert)
    expect(page.locator("#mute-layer input")).to_have_value("0")
    page.locator("#mute-run").click()
    columns = page.locator("#mute-view .cmp-column")
    expect(columns).to_have_count(3, timeout=SLOW)
    expect(columns.locator("h3")).to_have_text(["as it is", re.compile(rf"^expert {expert} × 0$"),
                                                re.compile(r"^control: expert \d+ × 0$")])
    expect(page.locator("#mute-view .cmp-doing")).to_contain_text("Seed 0.", timeout=SLOW)
    for column in columns.all():
        expect(column.locator(".cmp-note").last).to_contain_text(re.compile(r"[1-9]\d* tokens"))
