"""The body of /v1/chat/completions -> a checked request, by the same code as the page's (`ask`).

What would change the answer and cannot be done is refused by name; what asks for nothing special (`n: 1`, no tools) and
what does not concern the answer (`user`) passes. A field that is null counts as left out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ..ask import PER_TOKEN, Question, request_from_fields, setting_fields
from ..checks import shown
from ..model_info import ModelInfo
from ..request import plain_text, well_formed
from ..rules import TOP_P
from ..settings import Settings
from .errors import Refused

MOST_STOPS = 4  # as many as OpenAI takes

# What OpenAI's API has and this does not -> the values that ask for nothing of it.
NOTHING_ASKED: dict[str, tuple[Any, ...]] = {
    "n": (1,), "logprobs": (False,), "top_logprobs": (0,), "logit_bias": ({},), "frequency_penalty": (0,),
    "presence_penalty": (0,), "response_format": ({"type": "text"},), "tools": ([],), "functions": ([],),
    "tool_choice": ("none", "auto"), "function_call": ("none", "auto"), "modalities": (["text"],), "audio": (),
    "prediction": (), "reasoning_effort": ("none",), "verbosity": (), "web_search_options": (), "moderation": (),
    "store": (False,), "service_tier": ("auto", "default"),
}
NO_CONCERN = {"user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_options",
              "prompt_cache_retention", "parallel_tool_calls"}
SAMPLING = ("temperature", "top_p", "seed")
ROUTING = ("k_min", "k_max", "parameter", "weighting")
EXTRAS = ("routed_experts", "prompt_routed_experts", "router_logits")
KNOWN = {"model", "messages", "max_tokens", "max_completion_tokens", "stop", "stream", "stream_options",
         "num_experts_per_tok", "rule", *SAMPLING, *ROUTING, *EXTRAS}


@dataclass(frozen=True)
class Asked:
    """A request, and in which form the reply is wanted.

    stop: the reply ends before the first of these. routed_experts: with the experts of each of the reply's tokens;
    prompt_routed_experts: of the prompt's; router_logits: and with the routers' logits, wherever experts are told.
    """

    question: Question
    stop: tuple[str, ...] = ()
    stream: bool = False
    include_usage: bool = False
    routed_experts: bool = False
    prompt_routed_experts: bool = False
    router_logits: bool = False


def asked(body: bytes, info: ModelInfo, settings: Settings) -> Asked:
    """Raises Refused with what is wrong and what to do."""
    try:
        fields = _object(body)
        return _asked(fields, info, settings)
    except ValueError as error:
        raise Refused(str(error)) from None
    except RecursionError:
        raise Refused("The body is nested too deeply.") from None


def _object(body: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(body)
    except ValueError:
        raise ValueError("The body is not JSON.") from None
    if not isinstance(fields, dict):
        raise ValueError(f"The body must be a JSON object; got {shown(fields)}.")
    return {name: value for name, value in fields.items() if value is not None}


def _asked(fields: dict[str, Any], info: ModelInfo, settings: Settings) -> Asked:
    for name in fields.keys() - KNOWN - NO_CONCERN:
        _nothing_asked(name, fields[name])
    _served(fields.get("model"), info)
    system, past, message = _messages(fields.get("messages"))
    options = _flag_fields(fields.get("stream_options", {}), "stream_options", ("include_usage", "include_obfuscation"))
    extras = _flags(fields, ("stream", *EXTRAS))
    if not info.tells_routing and any(extras[name] for name in EXTRAS):
        raise Refused("The engine behind this server does not tell which experts fired.", param=EXTRAS[0],
                      code="unsupported_parameter")
    return Asked(
        request_from_fields(
            message, past, info=info, settings=settings, system_prompt=system, **_routing(fields),
            **{name: fields[name] for name in SAMPLING if name in fields}, **_max_new_tokens(fields)),
        _stops(fields.get("stop", [])), **extras, include_usage=options["include_usage"])


def _nothing_asked(name: str, value: Any) -> None:
    if name not in NOTHING_ASKED:
        raise Refused(f"Unrecognized request argument: {shown(name)}.", param=well_formed(name),
                      code="unknown_parameter")
    if value not in NOTHING_ASKED[name]:
        raise Refused(f"{name} is not supported by this server. Leave it out.", param=name,
                      code="unsupported_parameter")


def _served(model: Any, info: ModelInfo) -> None:
    if model is None:
        raise Refused(f"Name a model: this server has {info.name}.", param="model", code="missing_required_parameter")
    if model != info.name:
        raise Refused(f"There is no model {shown(model)} here. This server has {info.name}.", 404, param="model",
                      code="model_not_found")


def _messages(messages: Any) -> tuple[str, list[dict[str, Any]], Any]:
    """-> the system prompt, the messages before the last, and the last one's text."""
    if not isinstance(messages, list) or not messages:
        raise Refused("messages must be a list of {role, content}, the last of them the user's.", param="messages")
    read = [_message(i, message) for i, message in enumerate(messages)]
    first = next((i for i, message in enumerate(read) if message["role"] != "system"), len(read))
    if any(message["role"] == "system" for message in read[first:]):
        raise Refused("System and developer messages must come first.", param="messages")
    if read[-1]["role"] != "user":
        raise Refused("The last message must be the user's; there is nothing to answer.", param="messages")
    system = read[0]["content"] if first else ""
    return system, read[min(first, 1):-1], read[-1]["content"]


def _message(i: int, message: Any) -> dict[str, Any]:
    """role and content. Whatever else a message says is refused, but what this server's own replies hold."""
    if not isinstance(message, dict):
        raise Refused(f"Message {i + 1} must be an object with role and content; got {shown(message)}.",
                      param="messages")
    others = {name for name, value in message.items() if value not in (None, [], "")}
    if unread := sorted(others - {"role", "content", "routed_experts", "prompt_routed_experts"}):
        raise Refused(f"Message {i + 1} has {shown(unread[0])}, which is not supported: only role and content are.",
                      param="messages")
    role = message.get("role")
    if role not in ("system", "developer", "user", "assistant"):
        raise Refused(f"Message {i + 1}: role must be system, developer, user or assistant; got {shown(role)}.",
                      param="messages")
    try:
        content = plain_text(message.get("content"))
    except ValueError as error:
        raise Refused(f"Message {i + 1}: {error}", param="messages") from None
    if not isinstance(content, str):
        raise Refused(f"Message {i + 1}: content must be text; got {shown(content)}.", param="messages")
    return {"role": "system" if role == "developer" else role, "content": content}


def _routing(fields: dict[str, Any]) -> dict[str, Any]:
    """num_experts_per_tok: a number, "adaptive" or a rule with its parameter ("top-p:0.4"); or `rule`, `parameter`."""
    k, rule = fields.get("num_experts_per_tok"), fields.get("rule")
    given = {name: fields[name] for name in ROUTING if name in fields}
    if rule is not None:
        if k is not None:
            raise Refused("Give num_experts_per_tok or rule, not both: a rule chooses k itself.", param="rule")
        return {"mode": PER_TOKEN, "rule": rule} | given
    if "parameter" in given:
        raise Refused(f"parameter is a rule's: name the rule too, such as {TOP_P}.", param="parameter")
    setting = setting_fields(k) if isinstance(k, str) else {"num_experts_per_tok": k}
    return setting | given


def _max_new_tokens(fields: dict[str, Any]) -> dict[str, Any]:
    given = {name: fields[name] for name in ("max_tokens", "max_completion_tokens") if name in fields}
    if len(given) == 2 and given["max_tokens"] != given["max_completion_tokens"]:
        raise Refused("max_tokens and max_completion_tokens differ. Give one of them.", param="max_tokens")
    return {"max_new_tokens": next(iter(given.values()))} if given else {}


def _stops(stop: Any) -> tuple[str, ...]:
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or len(stops) > MOST_STOPS or not all(isinstance(s, str) and s for s in stops):
        raise Refused(f"stop must be a text or a list of up to {MOST_STOPS} texts, none of them empty.", param="stop")
    return tuple(stops)


def _flags(fields: dict[str, Any], names: tuple[str, ...]) -> dict[str, bool]:
    for name in names:
        if not isinstance(fields.get(name, False), bool):
            raise Refused(f"{name} must be true or false; got {shown(fields[name])}.", param=name)
    return {name: fields.get(name, False) for name in names}


def _flag_fields(value: Any, name: str, names: tuple[str, ...]) -> dict[str, bool]:
    if not isinstance(value, dict) or value.keys() - set(names):
        raise Refused(f"{name} may hold {' and '.join(names)}.", param=name)
    return _flags({key: flag for key, flag in value.items() if flag is not None}, names)
