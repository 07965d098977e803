"""The load test itself, with few visitors and for seconds: `python -m tests.load` is the whole of it."""

from __future__ import annotations

from pathlib import Path

from .load import load
from .serving import in_a_thread, serve


def test_visitors_who_come_and_go_get_their_own_replies(tmp_path: Path) -> None:
    with serve(tmp_path / "log") as server:
        found = in_a_thread(load(server, visitors=6, seconds=8, say=print))
    assert found["wrong"] == []  # not `over`: this machine may be busy with other things
    assert found["read to the end"] > 10 and min(found["memory_mb"]) > 100
