"""What is kept of a visitor: values of theirs, not the page again."""

from __future__ import annotations

import gradio as gr
import httpx
from gradio.state_holder import SessionState
from gradio_client import Client

from olmoe_space.settings import Settings
from olmoe_space.ui.page import build_page

from .scripted import INFO, ScriptedModel
from .serving import Server


def test_a_session_has_no_copy_of_the_page() -> None:
    page = build_page(INFO, ScriptedModel().stream, Settings())
    session, other = SessionState(page), SessionState(page)
    key = next(key for key, block in page.blocks.items() if isinstance(block, gr.Textbox))
    session._update_value_in_config(key, "typed by one visitor")
    session[key] = gr.Textbox(value="typed by one visitor", render=False)
    assert not list(session.components) and session[key].value == "typed by one visitor"
    assert other[key] is page.blocks[key]
    told = page.get_config_file()["components"]
    assert len(told) > 50 and all(one["type"] for one in told)


def test_what_a_visitor_typed_cannot_be_asked_for(server: Server) -> None:
    """Gradio's deep links tell it to anybody who has the session's name."""
    client = Client(server.url, verbose=False)
    client.predict(message="swordfish", api_name="/choose_experts")
    with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as another:
        name = another.get("/gradio_api/deep_link", params={"session_hash": client.session_hash}).json()
        assert name and "swordfish" not in another.get("/config", params={"deep_link": name}).text
