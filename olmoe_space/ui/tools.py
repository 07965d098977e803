"""The endpoints as tools of the Model Context Protocol: what gradio makes of them, with JSON in and out."""

from __future__ import annotations

import json
import logging
from typing import Any

from gradio.mcp import GradioMCPServer
from mcp.types import TextContent

from ..request import well_formed


class Tools(GradioMCPServer):
    """Each tool's result as one JSON text: gradio tells an object as Python writes it, which no other program reads."""

    def _prepare_tool_call_args(self, name: str, arguments: dict[str, Any]) -> Any:
        """Gradio passes them on to itself over HTTP as UTF-8."""
        return super()._prepare_tool_call_args(name, readable(arguments))

    def postprocess_output_data(self, data: Any, root_url: str) -> list[Any]:
        return [TextContent(type="text", text=json.dumps(output, ensure_ascii=False)) for output in data]


def readable(value: Any) -> Any:
    """The same plain value with U+FFFD for every lone surrogate in a text."""
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, list):
        return [readable(one) for one in value]
    if isinstance(value, dict):
        return {readable(name): readable(one) for name, one in value.items()}
    return value


def keep_texts_out_of_the_log() -> None:
    """The protocol's package logs a request that does not fit whole, with what a visitor wrote, by the root logger; and
    four lines for each that does."""
    logging.getLogger("mcp").setLevel(logging.ERROR)
    logging.getLogger().addFilter(_without_values)


def _without_values(record: logging.LogRecord) -> bool:
    record.msg, record.args = record.getMessage().partition(":")[0], ()
    return True
