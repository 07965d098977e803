"""Two buttons in one place: Run, and while that computes, Stop."""

from __future__ import annotations

from typing import Any

import gradio as gr

from .stoppable import Stoppable


def busy(run: gr.Button, stop: gr.Button, is_busy: bool) -> dict[Any, Any]:
    """Updates that show the one of the two that can be pressed."""
    return {run: gr.update(visible=not is_busy), stop: gr.update(visible=is_busy, value="Stop", interactive=True)}


def halt(work: Stoppable | None, run: gr.Button, stop: gr.Button) -> dict[Any, Any]:
    """Stop was pressed: Run is back at once if nothing runs, else when the last result has come."""
    is_running = work is not None and work.state == "running"
    if work is not None:
        work.stop()
    return {stop: gr.update(value="Stopping", interactive=False)} if is_running else busy(run, stop, False)
