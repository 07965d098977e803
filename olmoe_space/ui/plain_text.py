"""A place for text that must stay text: gr.HTML whose value only ever reaches `textContent`.

Values in gr.HTML's own template are markup (${...}) or code ({{...}}), and what is shown here may quote
whatever a visitor typed.
"""

from __future__ import annotations

import gradio as gr

from .assets import read


def plain_text(elem_id: str, role: str, value: str = "") -> gr.HTML:
    """role: "alert" is read out at once, "status" when the reader is idle."""
    return gr.HTML(value, elem_id=elem_id, html_template=f'<p class="plain-text" role="{role}"></p>',
                   js_on_load=read("plain_text.js"), container=False, padding=False)
