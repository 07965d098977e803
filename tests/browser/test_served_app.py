"""The app as `python app.py` serves it, embedded model and all, in a visitor's browser."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from .chatting import ask_and_wait

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("look", [{}, {"dark": True}, {"width": 390, "height": 844}], ids=["laptop", "dark", "phone"])
def test_a_reply_of_the_embedded_model(open_page: Any, look: dict[str, Any]) -> None:
    page = open_page(**look)
    ask_and_wait(page, "Why is the sky blue?")
    expect(page.locator("#chat .reply-note").last).to_contain_text(re.compile(r"k 8 · \d+ tok/s"))
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_adaptive_mode_gives_a_technical_question_more_experts(page: Page) -> None:
    expect(page.get_by_label("Message", exact=True)).to_be_visible(timeout=60_000)
    page.get_by_role("radio", name="Adaptive").check()
    used = []
    for question in ("hi there", "Prove that every finite integral domain is a field."):
        ask_and_wait(page, question)
        expect(page.locator("#chat .reply-note")).to_have_count(len(used) + 1)
        note = page.locator("#chat .reply-note").last.inner_text()
        used.append(int(re.search(r"k (\d+)", note)[1]))
    assert 4 <= used[0] < used[1] <= 16
