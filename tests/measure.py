"""What the served app costs on this machine: `python -m tests.measure`. Prints one JSON line last.

start_s: from `python app.py` to the first page. view_cost: the share of the bare decode loop's speed that events,
traces and the live view's frames take. resident_mb: the server's memory before and after fifty chats.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

CHATS = 50
NEW_TOKENS = 64
REPEATS = 7


def main() -> None:
    from gradio_client import Client

    from .serving import serve

    figures = view_cost()
    with tempfile.TemporaryDirectory() as folder, serve(Path(folder) / "log.txt") as server:
        figures["start_s"] = round(server.start_s, 1)
        client = Client(server.url, verbose=False)
        figures["resident_mb_at_start"] = server.resident_bytes() // 2**20
        for i in range(CHATS):
            client.predict(f"Tell me something about the number {i}.", num_experts_per_tok=1 + i % 64,
                           max_new_tokens=NEW_TOKENS, seed=i, api_name="/generate")
            print(f"\rchat {i + 1} of {CHATS}: {server.resident_bytes() // 2**20} MiB ", end="", file=sys.stderr)
        figures[f"resident_mb_after_{CHATS}_chats"] = server.resident_bytes() // 2**20
    print(file=sys.stderr)
    print(json.dumps(figures))


def view_cost() -> dict[str, float]:
    """Decode speed of the bare loop, with events, and with the page's frames drawn from them, in turns."""
    from olmoe_space.ask import request_from_fields
    from olmoe_space.conversation import encode
    from olmoe_space.engine.engine import Engine
    from olmoe_space.lab.benchmark import bare
    from olmoe_space.model.loader import load
    from olmoe_space.settings import EMBEDDED_MODEL, Settings
    from olmoe_space.ui.live_view import LiveFrames

    settings = Settings(model=str(EMBEDDED_MODEL))
    loaded = load(settings)
    engine = Engine(loaded.model, loaded.tokenizer)
    engine._stop_ids = frozenset()
    question = request_from_fields("Tell me a long story. " * 25, info=loaded.info, settings=settings, temperature=0,
                                   max_new_tokens=NEW_TOKENS, seed=0)

    prompt = encode(loaded.tokenizer, question.request.messages, loaded.info.context_length, NEW_TOKENS).token_ids

    def streamed(draw: bool) -> float:
        frames, first = LiveFrames(loaded.info, None), 0.0
        for event in engine.stream(question.request):
            if draw:
                frames.add(event)
            if type(event).__name__ == "Token" and not first:
                first = time.perf_counter()
        return (time.perf_counter() - first) / (NEW_TOKENS - 1)

    times: dict[str, list[float]] = {"bare": [], "events": [], "view": []}
    for _ in range(REPEATS + 1):
        times["bare"].append(bare(engine, question.request, prompt))
        times["events"].append(streamed(draw=False))
        times["view"].append(streamed(draw=True))
    bare, events, view = (median(t[1:]) for t in times.values())
    return {"bare_tokens_per_s": round(1 / bare, 1), "events_cost": round(1 - bare / events, 3),
            "view_cost": round(1 - bare / view, 3)}


if __name__ == "__main__":
    main()
