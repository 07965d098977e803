"""Under the header, where replicas compute the replies: how many there are and how busy they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from .markup import as_html

EVERY_S = 10
OLD_S = 10  # after so many seconds without news that is what is told


def replicas_line(state: Callable[[], dict[str, Any]]) -> gr.HTML:
    """state: what the engine elsewhere tells of itself (scale.engines.RemoteEngine.state)."""
    return gr.HTML(lambda: as_html(in_words(state())), every=EVERY_S, elem_id="replicas", container=False,
                   padding=False)


def in_words(told: dict[str, Any]) -> str:
    """2 replicas · busy 3 of 16, 0 of 16; "" for an engine that has none."""
    replicas = told.get("replicas")
    if replicas is None:
        return ""
    if told["told_s_ago"] > OLD_S:
        return f"Not every replica has answered for {told['told_s_ago']:.0f} s."
    busy = ", ".join(f"{one['busy']} of {one['slots']}" for one in replicas)
    return f"{len(replicas)} replica{'s' if len(replicas) != 1 else ''} · busy {busy}"
