"""Files of assets/ that the page is made of."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "assets"


def read(name: str) -> str:
    return (FOLDER / name).read_text("utf-8")
