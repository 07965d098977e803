"""Fixtures shared by all tests: small real models, the served app, and a browser that is not lenient."""

from __future__ import annotations

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before gradio is imported anywhere
os.environ["HF_HUB_OFFLINE"] = "1"                # before huggingface_hub is

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from olmoe_space.settings import EMBEDDED_MODEL

from . import chromium
from .fakes import SHAPES, byte_tokenizer, random_olmoe, save_random_olmoe
from .serving import Server, serve


@pytest.fixture(params=SHAPES)
def any_olmoe(request: pytest.FixtureRequest) -> Any:
    """A fresh random model of every shape in turn; patch it as you like."""
    return random_olmoe(request.param)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A browser beside a server on two busy cores now and then loses a race that is no fault of the page: a browser
    test may be run again, which the summary shows. No other test may."""
    for item in items:
        if item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.flaky(reruns=2))


@pytest.fixture
def plain_olmoe() -> Any:
    return random_olmoe()


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """The byte-level tokenizer of the random models."""
    return byte_tokenizer()


@pytest.fixture(scope="session")
def random_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with 64 experts in the hub's format, for OLMOE_MODEL."""
    return save_random_olmoe(tmp_path_factory.mktemp("random-olmoe"), "olmoe_experts")


@pytest.fixture(scope="session")
def olmoe_tiny_folder() -> Path:
    assert (EMBEDDED_MODEL / "config.json").is_file(), "assets/olmoe-tiny is missing; the app cannot do without it"
    return EMBEDDED_MODEL


@pytest.fixture(scope="module")
def olmoe_tiny(olmoe_tiny_folder: Path) -> tuple[Any, Any]:
    """(model, tokenizer) of assets/olmoe-tiny as stock transformers loads them, in fp32. Do not patch."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(olmoe_tiny_folder, dtype="float32").eval().requires_grad_(False)
    return model, AutoTokenizer.from_pretrained(olmoe_tiny_folder)


@pytest.fixture(scope="session")
def server(olmoe_tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The app with the embedded model, as `python app.py` serves it. No test may make it log a traceback."""
    with serve(tmp_path_factory.mktemp("server") / "log.txt") as running:
        yield running
        assert "Traceback" not in running.log, running.log


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from playwright.sync_api import expect, sync_playwright

    path = chromium.find()
    assert path, chromium.NONE_FOUND
    expect.set_options(timeout=20_000)  # a busy machine of two cores is late, not wrong
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=chromium.ARGS)
        yield running
        running.close()


@pytest.fixture
def open_page(browser: Any, request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """open_page(url=None, width=1280, height=900, dark=False, **context options) -> a page at the app.

    When the test ends it fails if any of its pages logged an error to the console, threw one, or
    asked another host for anything.
    """
    contexts: list[Any] = []
    problems: list[str] = []

    def new(url: str | None = None, width: int = 1280, height: int = 900, dark: bool = False, **options: Any) -> Any:
        url = url or request.getfixturevalue("server").url
        context = browser.new_context(viewport={"width": width, "height": height},
                                      color_scheme="dark" if dark else "light", **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        chromium.watch(page, url, problems)
        page.goto(url)
        return page

    yield new
    for context in contexts:
        context.close()
    assert not problems, "\n".join(problems)


@pytest.fixture
def page(open_page: Callable[..., Any]) -> Any:
    """The app's page on a laptop, light."""
    return open_page()

