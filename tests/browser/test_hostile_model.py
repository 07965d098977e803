"""A model that writes script, markup and templates, and a visitor who types them: in every tab and file they are text.

The model is real: random weights, and a vocabulary whose only likely tokens are hostile.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from olmoe_space.trace import load_npz
from tests.fakes import VOCAB, byte_tokenizer, random_olmoe
from tests.serving import Server, serve

from .chatting import ask_and_wait
from .tabs import open_tab

pytestmark = pytest.mark.browser
PIECES = ('<img src=x onerror="window.hacked=1">', "<script>window.hacked=1;alert(1)</script>", "{{7*7}}", "${7*7}",
          "[a](javascript:window.hacked=1)", '</style><svg/onload="window.hacked=1">')
TYPED = "".join(PIECES) + " =1+1 <iframe src=javascript:window.hacked=1>"
SLOW = 120_000  # ms


def hostile_model(folder: Path) -> Path:
    """Every other token's logit is 0, so that of PIECES' random ones the largest is drawn."""
    tokenizer, model = byte_tokenizer(), random_olmoe("olmoe_experts")
    assert tokenizer.add_tokens(list(PIECES)) == len(PIECES) and len(tokenizer) == VOCAB
    model.lm_head.weight.data[:VOCAB - len(PIECES)] = 0
    model.lm_head.weight.data *= 20  # far above 0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = hostile_model(tmp_path_factory.mktemp("hostile") / "olmoe")
    with serve(folder.parent / "log.txt", env={"OLMOE_MODEL": str(folder)}) as running:
        yield running
        assert "Traceback" not in running.log, running.log


@pytest.fixture
def careful(open_page: Callable[..., Page], server: Server) -> Iterator[Page]:
    """A page that fails the test if anything in it runs: a dialog, a changed property, a request or an element."""
    page = open_page(server.url)
    ran: list[str] = []
    page.on("dialog", lambda dialog: (ran.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: ran.append(request.url) if request.url.endswith("/x") else None)
    yield page
    assert page.evaluate("window.hacked") is None and not ran, ran
    assert page.locator("img[src=x], [onload], [onerror], iframe, a[href^=javascript]").count() == 0
    assert page.evaluate("![...document.scripts].some(script => script.textContent.includes('hacked'))")
    assert page.get_by_text("49", exact=True).locator("visible=true").count() == 0  # 7 times 7


def downloaded(page: Page, name: str, where: Path) -> Path:
    with page.expect_download(timeout=SLOW) as download:
        page.locator(name).click()
    download.value.save_as(where / download.value.suggested_filename)
    return where / download.value.suggested_filename


def ask_for_a_short_reply(page: Page) -> str:
    page.get_by_role("button", name="System prompt and sampling").click(timeout=60_000)
    page.get_by_label("System prompt").last.fill(TYPED)
    field = page.get_by_label("Max new tokens")
    field.fill("12")
    field.blur()
    ask_and_wait(page, TYPED)
    said = page.locator("#chat [data-testid=bot]").last.text_content() or ""
    found = re.findall("|".join(map(re.escape, PIECES)), said)
    assert len(found) == 12 and "".join(found) == said, said
    return said


def test_in_the_chat_and_its_files(careful: Page, tmp_path: Path) -> None:
    said = ask_for_a_short_reply(careful)
    expect(careful.locator("#chat [data-testid=user]").last).to_have_text(TYPED)
    files = {kind: downloaded(careful, f"#download-{kind}", tmp_path) for kind in ("svg", "json", "npz")}
    assert "hacked" not in files["svg"].read_text()
    told = json.loads(files["json"].read_text())["tokens"]
    assert "".join(token["text"] for token in told).endswith(said)
    assert load_npz(files["npz"].read_bytes()).text("decode") == said
    careful.get_by_role("button", name="Figures of this reply").click()
    expect(careful.locator("#heatmap-figure img")).to_be_visible()


def test_in_compare_inside_and_experts_from_a_reply(careful: Page, tmp_path: Path) -> None:
    ask_for_a_short_reply(careful)
    for tab in ("Compare", "Inside a token", "Experts"):
        open_tab(careful, "Chat")
        careful.get_by_role("button", name=f"Open this reply in {tab}").click()
        if tab == "Compare":
            careful.locator("#compare-run").click()
            expect(careful.locator("#compare-view .cmp-doing")).to_contain_text("Seed", timeout=SLOW)
            for text in careful.locator("#compare-view .cmp-text").all():
                expect(text).to_contain_text(re.compile("|".join(map(re.escape, PIECES))))
            careful.locator("#truth-run").click()
            expect(careful.locator("#truth-plot img")).to_be_visible(timeout=SLOW)
        elif tab == "Inside a token":
            expect(careful.locator("#inside .in-tokens button", has_text="<script>").first).to_be_visible(timeout=SLOW)
        else:
            expect(careful.locator("#experts-view [data-part=map-note]")).to_contain_text("reply", timeout=SLOW)
            rows = list(csv.reader(downloaded(careful, "#experts-csv", tmp_path).open()))
            assert len(rows) > 100 and not [cell for row in rows for cell in row if is_formula(cell)]


def is_formula(cell: str) -> bool:
    """Whether a spreadsheet would compute it. A number may be negative."""
    return cell[:1] in tuple("=+-@\t\r") and not re.fullmatch(r"-?\d[\d.e+-]*", cell)


def test_what_counts_as_a_formula() -> None:
    assert all(map(is_formula, ("=1", "+1+1", "-1+1|cmd", "@x", "\tx", "\rx")))
    assert not any(map(is_formula, ("", "a=1", "-0.5", "-1e-05", "3")))


def type_in(page: Page, tab: str, fields: str) -> None:
    """TYPED, in every one of the tab's fields that can be seen."""
    open_tab(page, tab)
    found = page.locator(f"#panel-{tab.lower().replace(' a token', '')}-tab").locator(fields).locator("visible=true")
    expect(found.first).to_be_visible(timeout=60_000)
    for field in found.all():
        field.fill(TYPED)
        field.blur()


@pytest.mark.parametrize(("tab", "runs"), [
    ("Compare", {"#compare-run": "#compare-view .cmp-doing", "#race-run": "#race-plot img"}),
    ("Inside a token", {"#inside": "#inside .in-tokens"}),
    ("Experts", {"#survey-run": "#experts-view [data-part=map-note]", "#mute-run": "#mute-view .cmp-doing"}),
    ("Benchmark", {"#benchmark-run": "#benchmark-view"})])
def test_typed_in_every_text_field(careful: Page, tab: str, runs: dict[str, str]) -> None:
    type_in(careful, tab, "textarea")
    for button, told in runs.items():
        careful.locator(button).click()
        expect(careful.locator(told)).to_be_visible(timeout=SLOW)


@pytest.mark.parametrize(("tab", "button", "told"), [
    ("Experts", "#mute-run", "#mute-error"), ("Benchmark", "#benchmark-run", "#panel-benchmark-tab [role=alert]")])
def test_typed_where_numbers_belong(careful: Page, tab: str, button: str, told: str) -> None:
    type_in(careful, tab, "input[type=text]:not([role=combobox])")
    careful.locator(button).click()
    expect(careful.locator(told).locator("visible=true").first).to_have_text(re.compile(r"\w"), timeout=SLOW)
