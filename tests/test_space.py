"""The card that stands in the chat where olmoe-tiny stands in for the real model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from olmoe_space.settings import HUB_MODEL, Settings
from olmoe_space.ui.space import home, stand_in_card

from .scripted import INFO


def test_the_model_itself_has_no_card() -> None:
    assert stand_in_card(replace(INFO, stands_in_for=""), Settings()) == ""


def test_on_a_space_it_says_what_to_press(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYSTEM", "spaces")
    monkeypatch.setenv("SPACE_ID", "me/olmoe")
    settings = Settings(on_space=True)
    assert home(settings) == "https://huggingface.co/spaces/me/olmoe"
    card = stand_in_card(replace(INFO, stands_in_for=HUB_MODEL), settings)
    assert 'href="https://huggingface.co/spaces/me/olmoe?duplicate=true"' in card
    assert 'href="https://huggingface.co/spaces/me/olmoe/settings"' in card and "Space hardware" in card
    assert HUB_MODEL in card and "make run" not in card


def test_elsewhere_it_says_what_to_start() -> None:
    assert home(Settings()) is None
    card = stand_in_card(replace(INFO, stands_in_for=HUB_MODEL), Settings())
    assert f"<code>OLMOE_MODEL={HUB_MODEL} make run</code>" in card and "href" not in card
