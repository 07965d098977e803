"""Text and numbers on their way into HTML that this project wrote itself."""

from __future__ import annotations

from html import escape


def as_html(text: str) -> str:
    """`text` as HTML text, also for gr.HTML's template language, to which braces and $ are code."""
    return escape(text).replace("{", "&#123;").replace("}", "&#125;").replace("$", "&#36;")


def count(number: int) -> str:
    """31.7M, 6.92B: a count of parameters as people say it."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:#.3g}".rstrip(".") + unit
    return str(number)
