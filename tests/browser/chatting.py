"""Asking in the chat."""

from __future__ import annotations

from playwright.sync_api import Page, expect


def ask(page: Page, text: str) -> None:
    box = page.get_by_label("Message", exact=True)
    expect(box).to_be_visible(timeout=60_000)
    box.fill(text)
    box.press("Enter")


def ask_and_wait(page: Page, text: str) -> None:
    ask(page, text)
    expect(page.locator("#chat .reply-note").last).to_contain_text("mass", timeout=120_000)
