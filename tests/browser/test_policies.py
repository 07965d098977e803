"""Policies per token as a visitor has them: in the chat, and in Compare's race."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from .chatting import ask
from .tabs import open_tab

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("look", [{"width": 1440}, {"dark": True, "width": 390, "height": 844}], ids=["wide", "phone"])
def test_a_reply_with_k_per_token(open_page: Callable[..., Any], look: dict[str, Any]) -> None:
    page = open_page(**look)
    expect(page.get_by_label("Message", exact=True)).to_be_visible(timeout=60_000)
    page.locator("#mode").get_by_label("Per token").check()
    expect(page.locator("#rule input")).to_be_visible()
    expect(page.locator("#k-hint")).to_contain_text("fewest experts")
    ask(page, "Why is the sky blue?")
    expect(page.locator("#reply-summary")).to_contain_text("top-p 0.4 within k 4 to 16", timeout=120_000)
    expect(page.locator("#reply-notes, #chat").filter(has_text=re.compile(r"k \d+(\.\d)? ·")).first).to_be_visible()
    why = page.locator("#live-view [data-part=why]")
    expect(why).to_contain_text("Why k varies: top-p 0.4")
    expect(page.locator("#live-view [data-part=sparks]")).to_contain_text(re.compile(r"k per token\s*4 – \d"))
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_parameter_that_cannot_be_is_refused_in_words(page: Page) -> None:
    expect(page.get_by_label("Message", exact=True)).to_be_visible(timeout=60_000)
    page.locator("#mode").get_by_label("Per token").check()
    page.locator("#rule-parameter input").fill("7")
    page.locator("#rule-parameter input").press("Tab")
    ask(page, "Why is the sky blue?")
    expect(page.locator("#message-error [role=alert]")).to_contain_text("above 0 and at most 1")


def test_the_race_and_its_numbers(page: Page) -> None:
    open_tab(page, "Compare")
    page.locator("#race-run").click()
    expect(page.locator("#race-plot img")).to_be_visible(timeout=240_000)
    view = page.locator("#race-view")
    expect(view.locator(".cmp-verdict")).to_contain_text("the model's own k=8 costs")
    expect(view.locator(".cmp-control")).to_have_count(4)
    assert view.locator(".cmp-front").count() >= 1
    with page.expect_download() as download:
        page.locator("#race-csv").click()
    rows = list(csv.DictReader(download.value.path().read_text().splitlines()))
    assert len(rows) == view.locator("tr").count() - 1 and {r["family"] for r in rows} > {"fixed k", "top-p", "random"}
