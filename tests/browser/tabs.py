"""Opening a tab, which on a phone may wait behind a button."""

from __future__ import annotations

from playwright.sync_api import Page, expect


def open_tab(page: Page, name: str) -> None:
    expect(page.locator("#tabs")).to_be_visible(timeout=60_000)
    tab = page.get_by_role("tab", name=name, exact=True)
    if not tab.is_visible():
        page.locator("#tabs .overflow-menu > button").click()
        tab = page.locator("#tabs .overflow-dropdown button", has_text=name)
    tab.click()
