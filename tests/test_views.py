"""Views as text: what a link or a file may hold, and what is said of those that cannot be read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from olmoe_space.ui.views import FORMAT, MAX_CHARS, VERSION, View, filled, view_from

from .scripted import HOSTILE

FIELDS = {"message": HOSTILE + "\n\u2028é", "k": 16, "temperature": 0.5, "stock": True, "seed": None}
GOOD = {"format": FORMAT, "version": VERSION, "tab": "chat-tab", "fields": {}}


def test_a_view_comes_back_from_its_text() -> None:
    view = View("chat-tab", FIELDS)
    assert view_from(view.to_text()) == view and view.to_text().isascii()


@pytest.mark.parametrize(("text", "said"), [
    ("", "cut off"), ("{", "cut off"), ("[" * 5000, "cut off"), ("7", "format"), ("[]", "format"), ("{}", "format"),
    (None, "not text"), ("x" * (MAX_CHARS + 1), "longer"),
    (json.dumps(GOOD | {"format": "other"}), "format"), (json.dumps(GOOD | {"version": 2}), "version 1"),
    (json.dumps(GOOD | {"tab": 3}), "no tab"), (json.dumps(GOOD | {"fields": []}), "no fields|has no fields"),
    (json.dumps(GOOD | {"fields": {"k": [8]}}), "'k' must be"),
])
def test_what_is_no_view_is_said(text: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        view_from(text)


def test_fields_that_are_not_in_a_view_stay() -> None:
    present = {"k": 8, "seed": "", "stock": False, "blank": None}
    assert filled(View("t", {"k": 16, "blank": 3}), present) == {"k": 16, "seed": "", "stock": False, "blank": 3}
    assert present["k"] == 8


@pytest.mark.parametrize(("fields", "said"), [
    ({"top": 1}, "'top' that this page does not know"), ({"k": "8"}, "'k' must be a number; it is text"),
    ({"stock": 1}, "true or false"), ({"seed": 3}, "must be text")])
def test_fields_of_another_kind_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        filled(View("t", fields), {"k": 8, "seed": "", "stock": False})
