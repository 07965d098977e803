"""Files of assets/ that the page is made of."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "assets"


def read(name: str) -> str:
    return (FOLDER / name).read_text("utf-8")


def script(*names: str) -> str:
    """The scripts of one view, in their order, as `js_on_load` takes them."""
    return "\n".join(['"use strict";', *map(read, names)])
