"""The tab that walks through one token's forward: the page's words and numbers for a `Walk`.

The view asks for a walk by an event of its own (text, token, k, weighting) and is answered with one ASCII JSON value
that only its script reads. Moving between steps and layers asks nothing: a value has every layer of its token.
Text reaches the page through textContent alone, for gr.HTML's templates would run it.

Knows nothing of models: it is handed `job`, which yields the walk.
"""

from __future__ import annotations

import base64
import json
import logging
import uuid
from contextlib import closing
from typing import Any

import gradio as gr
import numpy as np

from ..model_info import ModelInfo
from ..request import RoutingPolicy, visible_message, whole_number
from ..settings import Settings
from ..walk import MAX_TOKENS, ExpertWork, LayerWalk, Vector, Walk
from .assets import read, script
from .replies import Replies
from .sharing import Sharing
from .turn import Job, Turn
from .views import View, filled

log = logging.getLogger(__name__)

FIRST_TEXT = "Artificial intelligence is"
UNREACHED = "Too many are waiting just now, or the connection broke. Nothing is lost: try again in a moment."
FIELDS = ("text", "k", "weighting", "token")  # of a question, and of a link to it
REREAD_ROOM = 16  # tokens
_AT_ONCE: dict[str, Any] = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
_SCRIPTS = ("live_view/words.js", "inside/numbers.js", "inside/pictures.js", "inside/steps.js", "inside/main.js")


def inside_tab(info: ModelInfo, job: Job, settings: Settings, queue: str, replies: Replies,
               sharing: Sharing) -> None:
    """queue: the concurrency_id of all that uses the model. replies: the chat's, any of which can be opened here."""
    view = gr.HTML(
        value="", elem_id="inside", html_template=read("inside/view.html"),  # constant: gradio leaves it alone
        head=f"<style>{read('inside/view.css')}</style>", js_on_load=script(*_SCRIPTS),
        apply_default_css=False, container=False, padding=False,
        about={"num_experts": info.num_experts, "default_k": info.default_k, "name": info.name,
               "first_text": FIRST_TEXT, "at_once": not settings.on_zero_gpu})

    walked_last = gr.State({"text": FIRST_TEXT, "k": info.default_k, "weighting": "raw", "token": -1})

    def walked(asked: gr.EventData) -> tuple[str, Any]:
        fields = asked._data if isinstance(asked._data, dict) else {}
        return answer(fields, info, job, settings), {name: fields.get(name) for name in FIELDS}

    def shown(link: View, here: dict[str, Any]) -> dict[Any, Any]:
        fields = filled(link, here)
        question_of(fields, info, settings)
        return {view: opening_fields(fields)}

    asked = view.submit(walked, None, [view, walked_last], concurrency_id=queue,
                        concurrency_limit=settings.max_concurrent_chats, api_visibility="private",
                        show_progress="hidden", trigger_mode="multiple")
    asked.failure(lambda: refusal(UNREACHED), None, view, **_AT_ONCE)
    replies.opens("inside-tab", "Inside a token", lambda turn: {view: opening(turn)}, [], [view])
    sharing.offers_view("inside-tab", lambda fields: View("inside-tab", fields), [walked_last], shown, [view])


def opening(turn: Turn | None) -> str:
    """The value that has the page ask for a chat's reply: the text as the model had it, role tags and all, from
    its beginning to as far as a walk reaches."""
    trace = turn.trace() if turn is not None else None
    if trace is None:
        return refusal("There is no reply to walk through yet.")
    # Read anew, a reply may fall into other pieces than it was written in: leave room.
    text = "".join(trace.texts[:MAX_TOKENS - REREAD_ROOM])
    return opening_fields({"text": text, "k": trace.num_experts_per_tok, "weighting": trace.weighting, "token": -1})


def opening_fields(fields: dict[str, Any]) -> str:
    """The value that has the page ask for these fields."""
    return _ascii({"open": fields, "number": None, "id": uuid.uuid4().hex})


def question_of(fields: dict[str, Any], info: ModelInfo, settings: Settings) -> tuple[str, int, RoutingPolicy]:
    """Fields as the page has them -> text, token and routing. Raises ValueError."""
    k = whole_number(fields.get("k"), "Active experts (k)", 1, info.num_experts)
    return (visible_message(fields.get("text"), settings.max_message_chars),
            whole_number(fields.get("token"), "The token", -1), RoutingPolicy(k, fields.get("weighting", "raw")))


def answer(asked: Any, info: ModelInfo, job: Job, settings: Settings) -> str:
    """What the page asked -> the value that answers it: a walk, or a sentence saying why there is none."""
    fields = asked if isinstance(asked, dict) else {}
    number = fields.get("number")
    try:
        walks: Any = iter(job("inside", *question_of(fields, info, settings)))
        with closing(walks):
            return value_of(next(walks), number)
    except (ValueError, gr.Error) as error:  # gr.Error: what keeps its words across a fork
        return refusal(str(getattr(error, "message", error)), number)
    except Exception as error:
        log.error("A walk failed: %s", error, exc_info=error)
        return refusal(f"The model could not walk through this text. {type(error).__name__}: {error}", number)


def refusal(sentence: str, number: Any = None) -> str:
    return _ascii({"error": sentence, "number": number, "id": uuid.uuid4().hex})  # id: the same again is news too


def value_of(walk: Walk, number: Any = None) -> str:
    """A walk as the page reads it. Arrays are base64 of little-endian float32; logits largest first, since the page
    needs all of them for an exact softmax at any temperature, and pieces only for the first."""
    return _ascii({
        "number": number, "id": uuid.uuid4().hex, "text": walk.text, "ids": walk.token_ids, "pieces": walk.pieces,
        "token": walk.token, "k": walk.k, "weighting": walk.weighting, "shape": vars(walk.shape),
        "embedding": _vector(walk.embedding), "layers": [_layer(layer) for layer in walk.layers],
        "final_norm": _vector(walk.final_norm), "logits": _array(-np.sort(-walk.logits)),
        "top_ids": walk.top_ids, "top_pieces": walk.top_pieces,
        "checks": {c.name: {"error": c.error, "tolerance": c.tolerance, "passed": c.passed} for c in walk.checks},
        "seconds": walk.seconds,
    })


def _layer(layer: LayerWalk) -> dict[str, Any]:
    vectors = {name: _vector(value) for name, value in vars(layer).items() if isinstance(value, Vector)}
    return vectors | {
        "attention": _array(layer.attention), "router_logits": _array(layer.router_logits),
        "probabilities": _array(layer.probabilities), "mass": layer.mass, "entropy": layer.entropy,
        "selections": [vars(selection) for selection in layer.selections],
        "experts": [_expert(work) for work in layer.experts],
    }


def _expert(work: ExpertWork) -> dict[str, Any]:
    return {"expert": work.expert, "probability": work.probability, "weight": work.weight,
            "contribution": work.contribution_norm, "output": _vector(work.output)}


def _vector(vector: Vector) -> dict[str, Any]:
    return {"size": vector.size, "norm": vector.norm, "values": _array(vector.values)}


def _array(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode("ascii")


def _ascii(value: dict[str, Any]) -> str:
    # "<" is escaped because gr.HTML warns of values that hold a script tag.
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")
