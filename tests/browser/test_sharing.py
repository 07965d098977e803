"""Links and files that bring a view back, as visitors pass them on."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from olmoe_space.ui.benchmark import PROMPT

from .tabs import open_tab

pytestmark = pytest.mark.browser
HOSTILE = "<img src=x onerror=alert(1)> {{7*7}} ${alert(2)}"


def link_of(page: Page) -> str:
    page.locator("#share-link").click()
    expect(page.locator("#share-said")).to_contain_text("address bar")
    return page.url


def coded(view: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(view).encode()).decode().rstrip("=")


def test_a_link_brings_the_chats_message_and_settings_back(open_page: Callable[..., Any]) -> None:
    page = open_page(width=390, height=844)
    box = page.get_by_label("Message", exact=True)
    expect(box).to_be_visible(timeout=60_000)
    box.fill(HOSTILE)
    page.locator("#mode").get_by_label("Adaptive").check()
    expect(page.locator("#k-max")).to_be_visible()
    page.locator("#k-max input").fill("12")
    link = link_of(page)
    assert "onerror" not in link  # it is coded
    other = open_page(link, dark=True)
    expect(other.get_by_label("Message", exact=True)).to_have_value(HOSTILE, timeout=60_000)
    expect(other.locator("#k-max input")).to_have_value("12")
    expect(other.locator("#share-said")).to_contain_text("The view is open")
    assert other.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_file_brings_a_comparison_back(open_page: Callable[..., Any], tmp_path: Path) -> None:
    page = open_page()
    open_tab(page, "Compare")
    page.locator("#compare-prompt textarea").fill("Why is the sea salt?")
    page.locator("#compare-k-2 input").fill("12")
    page.locator("#compare-k-2 input").press("Enter")
    with page.expect_download() as download:
        page.locator("#share-save").click()
    file = tmp_path / "view.json"
    download.value.save_as(file)
    other = open_page()
    expect(other.get_by_label("Message", exact=True)).to_be_visible(timeout=60_000)
    with other.expect_file_chooser() as chooser:
        other.locator("#share-open").click()
    chooser.value.set_files(file)
    expect(other.locator("#compare-prompt textarea")).to_have_value("Why is the sea salt?", timeout=60_000)
    expect(other.locator("#compare-k-2 input")).to_have_value("12")
    open_tab(other, "Benchmark")  # another tab is as it always is
    expect(other.locator("#benchmark-prompt textarea")).to_have_value(PROMPT)


def test_a_link_walks_inside_a_token_again(open_page: Callable[..., Any]) -> None:
    page = open_page()
    open_tab(page, "Inside a token")
    view = page.locator("#inside")
    expect(view.locator(".in-tokens button").nth(6)).to_be_visible(timeout=60_000)
    view.get_by_label("Text", exact=True).fill("The sea is deep")
    view.get_by_label("Text", exact=True).press("Enter")
    expect(view.locator(".in-tokens")).to_contain_text("sea", timeout=60_000)
    other = open_page(link_of(page))
    again = other.locator("#inside")
    expect(again.locator(".in-tokens")).to_contain_text("sea", timeout=60_000)
    assert again.get_by_label("Text", exact=True).input_value() == "The sea is deep"


@pytest.mark.parametrize(("fragment", "said"), [
    ("@@@", "cut off"), (coded({"format": "other"}), "does not say"),
    (coded({"format": "olmoe-space-view", "version": 1, "tab": "attic", "fields": {}}), "does not have"),
    (coded({"format": "olmoe-space-view", "version": 1, "tab": "chat-tab",
            "fields": {"num_experts_per_tok": 99, "message": "Hi"}}), "from 1 to 64")])
def test_a_bad_link_is_said_and_changes_nothing(open_page: Callable[..., Any], fragment: str, said: str,
                                                server: Any) -> None:
    page = open_page(f"{server.url}#view={fragment}")
    expect(page.locator("#share-said")).to_contain_text(said, timeout=60_000)
    expect(page.get_by_label("Message", exact=True)).to_have_value("")
    expect(page.locator("#panel-chat-tab")).to_be_visible()
