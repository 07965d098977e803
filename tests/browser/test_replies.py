"""Any reply of the chat, also an earlier one, opened with one click."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from .chatting import ask
from .tabs import open_tab

pytestmark = pytest.mark.browser


def ask_nth(page: Page, text: str, nth: int) -> None:
    ask(page, text)
    expect(page.locator("#chat .reply-open").nth(nth).get_by_role("button")).to_have_count(4, timeout=120_000)


def test_an_earlier_reply_opens_in_each_tab_and_in_the_map(page: Page) -> None:
    ask_nth(page, "What is <b>water</b>?", 0)
    ask_nth(page, "Why is the sky blue?", 1)
    first = page.locator("#chat .reply-open").first
    tokens = page.locator("#live-view [data-part=reply] [role=option]")
    latest = tokens.all_text_contents()
    first.get_by_role("button", name="Show the map of this reply").click()
    page.wait_for_function("(before) => [...document.querySelectorAll('#live-view [data-part=reply] [role=option]')]"
                           ".map((t) => t.textContent).join('') !== before", arg="".join(latest))
    first.get_by_role("button", name="Open this reply in Compare").click()
    expect(page.locator("#compare-prompt textarea")).to_be_visible()
    expect(page.locator("#compare-prompt textarea")).to_have_value("What is <b>water</b>?")
    open_tab(page, "Chat")
    first.get_by_role("button", name="Open this reply in Inside a token").click()
    expect(page.locator("#inside").get_by_label("Text", exact=True)).to_be_visible()
    expect(page.locator("#inside .in-tokens button").nth(7)).to_be_visible(timeout=60_000)
    text = page.locator("#inside").get_by_label("Text", exact=True).input_value()
    assert "<b>water</b>" in text and "sky" not in text
