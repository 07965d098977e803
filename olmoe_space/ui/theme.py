"""The look that gradio's own variables can carry; the rest is assets/page.css. No font from another host."""

from __future__ import annotations

import gradio as gr
from gradio.themes.utils import sizes

ACCENT = gr.themes.Color(name="accent", c50="#f4f3fd", c100="#e9e7fb", c200="#d3cff6", c300="#b7b1f7", c400="#aaa4ff",
                         c500="#6e63dc", c600="#5246c9", c700="#443aa8", c800="#373086", c900="#2b2668", c950="#1b1845")
INK = gr.themes.Color(name="ink", c50="#f7f8fb", c100="#eff0f4", c200="#dfe1ea", c300="#c9ccd9", c400="#a4a9bb",
                      c500="#747a8f", c600="#5d6173", c700="#363a4b", c800="#1f2230", c900="#181b26", c950="#12141d")
SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def theme() -> gr.themes.Base:
    return gr.themes.Base(
        primary_hue=ACCENT, secondary_hue=ACCENT, neutral_hue=INK, text_size=sizes.text_md,
        spacing_size=sizes.spacing_md, radius_size=sizes.radius_md, font=SANS, font_mono=MONO,
    ).set(
        body_background_fill="#ffffff", body_background_fill_dark="#12141d",
        body_text_color="#1d1f2b", body_text_color_dark="#eceef6",
        body_text_color_subdued="#5d6173", body_text_color_subdued_dark="#a4a9bb",
        block_background_fill="transparent", block_background_fill_dark="transparent", block_border_width="0px",
        block_border_width_dark="0px", block_shadow="none", block_shadow_dark="none", block_padding="0",
        block_info_text_color="#5d6173", block_info_text_color_dark="#a4a9bb",
        block_label_text_color="#1d1f2b", block_label_text_color_dark="#eceef6",
        block_title_text_color="#1d1f2b", block_title_text_color_dark="#eceef6", block_title_text_weight="500",
        input_background_fill="#ffffff", input_background_fill_dark="#181b26", input_border_width="1px",
        input_border_color="#c9ccd9", input_border_color_dark="#363a4b",
        input_border_color_focus="#5246c9", input_border_color_focus_dark="#aaa4ff",
        input_placeholder_color="#747a8f", input_placeholder_color_dark="#8d92a6",
        button_primary_background_fill="#5246c9", button_primary_background_fill_hover="#443aa8",
        button_primary_background_fill_dark="#6e63dc", button_primary_background_fill_hover_dark="#7d73e6",
        button_primary_text_color="#ffffff", button_large_text_weight="600", button_large_text_size="*text_md",
        slider_color="#5246c9", slider_color_dark="#aaa4ff",
    )
