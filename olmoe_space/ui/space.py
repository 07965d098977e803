"""Where this Space lives, and the card that says how to get from olmoe-tiny to the model that it stands in for."""

from __future__ import annotations

from gradio.utils import get_space

from ..model_info import ModelInfo
from ..settings import Settings
from .markup import as_html

MODEL_GB = 15  # that OLMoE-1B-7B takes in 16 bits, with one chat of its whole context


def home(settings: Settings) -> str | None:
    """The address of this Space, as HTML text; None elsewhere."""
    space = get_space() if settings.on_space else None
    return f"https://huggingface.co/spaces/{as_html(space)}" if space else None


def stand_in_card(info: ModelInfo, settings: Settings) -> str:
    """For gr.HTML's template; "" where the model is not a stand-in."""
    if not info.stands_in_for:
        return ""
    model, here = as_html(info.stands_in_for), home(settings)
    if here:
        what = (f'{_link(f"{here}?duplicate=true", "Duplicate this Space")}, then choose a GPU under Settings, Space '
                f'hardware. If this Space is yours, {_link(f"{here}/settings", "its Settings")} are enough.')
    else:
        what = (f"start this on a machine with a GPU. Without one it is slow and takes {MODEL_GB} GB of memory: "
                f"<code>OLMOE_MODEL={model} make run</code>")
    return (f'<aside class="stand-in"><strong>This is {as_html(info.name)}</strong>, small and simple: there is no GPU '
            f'here for {model}. To chat with that one, {what}</aside>')


def _link(address: str, text: str) -> str:
    return f'<a href="{address}" target="_blank" rel="noopener">{text}</a>'
