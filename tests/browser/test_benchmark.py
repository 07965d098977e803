"""The benchmark as a visitor has it, over the embedded model."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from .tabs import open_tab

pytestmark = pytest.mark.browser


def ready(page: Page, ks: str) -> None:
    open_tab(page, "Benchmark")
    page.locator("#benchmark-ks").get_by_role("textbox").fill(ks)


def test_a_run_fills_table_claims_and_figures(open_page: Callable[..., Any]) -> None:
    page = open_page(width=390, height=844, dark=True)
    ready(page, "8, 16")
    page.locator("#benchmark-repeats input").fill("1")
    page.locator("#benchmark-run").click()
    expect(page.locator(".bm-doing")).to_contain_text("Measured in", timeout=200_000)
    rows = page.locator(".bm-table tr")
    expect(rows).to_have_count(3)
    expect(rows.nth(1)).to_contain_text(re.compile(r"8 \(own\).*1\.00 ×"))
    expect(page.locator(".bm-where")).to_contain_text(re.compile(r"CPU, \d+ threads.* GB/s.*\d{4}-\d\d-\d\d"))
    claims = page.locator(".bm-claim-table tr")
    expect(claims.filter(has_text="num_experts_per_tok = 16 after loading")).to_contain_text("not so here")
    expect(page.locator("#benchmark-plots img")).to_have_count(4, timeout=60_000)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    with page.expect_download() as download:
        page.locator("#benchmark-csv").click()
    assert download.value.path().read_text().startswith("k,")


def test_stop_keeps_what_there_is(page: Page) -> None:
    ready(page, "8, 16, 32, 64")
    page.locator("#benchmark-run").click()
    expect(page.locator(".bm-table tr")).to_have_count(2, timeout=120_000)
    page.locator("#benchmark-stop").click()
    expect(page.locator(".bm-doing")).to_contain_text("Stopped", timeout=120_000)
    expect(page.locator("#benchmark-run")).to_be_visible()
    expect(page.locator("#benchmark-plots img")).to_have_count(4, timeout=60_000)
