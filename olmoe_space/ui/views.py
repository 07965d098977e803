"""A view of the page as text: what a link carries and a file holds, to have it again.

JSON with format, version, tab and fields; only plain values. What the fields may be is checked where they are typed:
by the tab that they are for.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

FORMAT, VERSION = "olmoe-space-view", 1
MAX_CHARS = 200_000  # of a file or link; a message has at most 32,000 characters, and may be escaped
NO_VIEW = "This is no view of OLMoE Space"


@dataclass(frozen=True)
class View:
    """tab: its id. fields: what was set there, by name: str, int, float, bool or None."""

    tab: str
    fields: dict[str, Any]

    def to_text(self) -> str:
        return json.dumps({"format": FORMAT, "version": VERSION, "tab": self.tab, "fields": self.fields},
                          ensure_ascii=True)


def view_from(text: Any) -> View:
    """The inverse of `to_text`. Raises ValueError saying what is wrong with it."""
    if not isinstance(text, str):
        raise ValueError(f"{NO_VIEW}: it is not text.")
    if len(text) > MAX_CHARS:
        raise ValueError(f"{NO_VIEW}: it is longer than {MAX_CHARS:,} characters.")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"{NO_VIEW}: it cannot be read as JSON. Was the link cut off?") from None
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise ValueError(f"{NO_VIEW}: it does not say \"format\": \"{FORMAT}\".")
    if value.get("version") != VERSION:
        raise ValueError(f"This view was not written in version {VERSION}, the one that can be read here.")
    fields = value.get("fields")
    if not isinstance(value.get("tab"), str) or not isinstance(fields, dict):
        raise ValueError(f"{NO_VIEW}: it names no tab, or has no fields.")
    for name, given in fields.items():
        if given is not None and not isinstance(given, (str, int, float, bool)):
            raise ValueError(f"The view's field {name[:40]!r} must be text, a number, true, false or null.")
    return View(value["tab"], fields)


def filled(view: View, present: dict[str, Any]) -> dict[str, Any]:
    """The fields as they will stand: those of the view over those that are there now. Raises ValueError for one that
    the tab does not have, or that is of another kind."""
    for name, given in view.fields.items():
        if name not in present:
            raise ValueError(f"The view has a field {name[:40]!r} that this page does not know.")
        if _kind(given) != _kind(present[name]) and None not in (given, present[name]):
            raise ValueError(f"The view's field {name!r} must be {_kind(present[name])}; it is {_kind(given)}.")
    return present | view.fields


def _kind(value: Any) -> str:
    return "true or false" if isinstance(value, bool) else "text" if isinstance(value, str) else "a number"
