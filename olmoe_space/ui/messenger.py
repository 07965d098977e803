"""An unseen component through which a script of the page calls a function of ours: its `submit`, with EventData.

One for each function, with no more outputs than that function has: gradio loses the properties of a gr.HTML that is
told to stay as it is before its tab was ever shown.
"""

from __future__ import annotations

import gradio as gr

from .assets import read


def messenger(hears: str, me: str) -> gr.HTML:
    """Hears CustomEvents of the document named `hears` with detail {to: me, what: the data}."""
    return gr.HTML(None, html_template="", js_on_load=read("messenger.js"), container=False, padding=False, hears=hears,
                   me=me, elem_classes=["no-space"])
