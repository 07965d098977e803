"""One OpenAI-compatible server over HTTP: its models, and a reply's chunks as they come.

Whatever goes wrong is a ValueError with a sentence for the visitor: nobody there, a refused key, too many requests, a
failure, silence, a reply that breaks off. Knows nothing of experts.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

CONNECT_S = 10.0
LONGEST_WORDS = 300  # characters of what a server says about its refusal


class NotNow(ValueError):
    """Nobody there, silence, a failure or too many requests: the same may work a little later."""


class Server:
    """url: with /v1. key: bearer token, if it wants one. silence_s: a server that says nothing for so long is taken for
    dead; the first token may have to wait its turn there. Thread-safe."""

    def __init__(self, url: str, key: str | None, silence_s: float) -> None:
        self.url = url.rstrip("/")
        try:
            self.host = httpx.URL(url).netloc.decode()
        except httpx.InvalidURL as error:
            raise ValueError(f"{url!r} is no address of a server ({error}).") from None
        self._silence_s = silence_s
        self._client = httpx.Client(headers={"Authorization": f"Bearer {key}"} if key else {},
                                    timeout=httpx.Timeout(silence_s, connect=min(CONNECT_S, silence_s)),
                                    limits=httpx.Limits(max_connections=None))
        self._tells_usage = True  # until it says that it does not know the option

    def models(self) -> list[dict[str, Any]]:
        """The entries of /v1/models."""
        with self._faults_in_words():
            answer = self._client.get(f"{self.url}/models")
            self._check(answer)
            try:
                told = answer.json()["data"]
            except (ValueError, KeyError, TypeError):
                told = None
        if not isinstance(told, list) or not all(isinstance(model, dict) and model.get("id") for model in told):
            raise ValueError(f"{self.url}/models does not answer as an OpenAI-compatible server does.")
        return told

    def chunks(self, body: dict[str, Any]) -> Generator[dict[str, Any], None, None]:
        """The chunks of one streamed reply, to its very end; {} for a mere sign of life. Closing it closes the
        connection."""
        with self._faults_in_words():
            if self._tells_usage:
                with self._asked(body | {"stream_options": {"include_usage": True}}) as answer:
                    if answer.status_code not in (400, 422) or "stream_options" not in _read(answer):
                        yield from self._events(answer)
                        return
                self._tells_usage = False
            with self._asked(body) as answer:
                yield from self._events(answer)

    @contextmanager
    def _asked(self, body: dict[str, Any]) -> Iterator[httpx.Response]:
        with self._client.stream("POST", f"{self.url}/chat/completions", json=body | {"stream": True}) as answer:
            yield answer

    def _events(self, answer: httpx.Response) -> Iterator[dict[str, Any]]:
        """Server-sent events, each one line of data."""
        self._check(answer)
        ended = False
        for line in answer.iter_lines():
            if not line.startswith("data:"):
                yield {}
                continue
            data = line.removeprefix("data:").strip()
            if data == "[DONE]":
                return
            try:
                chunk = json.loads(data)
            except ValueError:
                raise ValueError(f"The server at {self.host} sent what cannot be read.") from None
            if not isinstance(chunk, dict) or chunk.get("error"):
                raise ValueError(f"The server at {self.host} says: {_words(data)}")
            ended = ended or any(choice.get("finish_reason") for choice in chunk.get("choices") or [])
            yield chunk
        if not ended:
            raise ValueError(f"The server at {self.host} broke off in the middle of the reply.")

    def _check(self, answer: httpx.Response) -> None:
        status = answer.status_code
        if status == 200:
            return
        words = _words(_read(answer))
        if status in (401, 403):
            raise ValueError(f"The server at {self.host} refuses the key ({status}). Set OLMOE_ENGINE_KEY to one that "
                             "it accepts.")
        if status in (429, 503):
            after = answer.headers.get("Retry-After", "")
            when = f"in {after} s" if after.isdecimal() else "in a moment"
            raise NotNow(f"The server at {self.host} is busy ({status}). Try again {when}.")
        if status >= 500:
            raise NotNow(f"The server at {self.host} failed ({status}). Try again in a moment.")
        raise ValueError(f"The server at {self.host} refuses this ({status}): {words}")

    @contextmanager
    def _faults_in_words(self) -> Iterator[None]:
        try:
            yield
        except httpx.ReadTimeout:
            raise NotNow(f"The server at {self.host} has been silent for {self._silence_s:g} s. "
                         "Try again in a moment.") from None
        except httpx.RemoteProtocolError:
            raise NotNow(f"The server at {self.host} broke off. Try again in a moment.") from None
        except httpx.TransportError as error:
            raise NotNow(f"The server at {self.host} cannot be reached ({error or type(error).__name__}). "
                         "Try again in a moment.") from None


def _read(answer: httpx.Response) -> str:
    return answer.read().decode(errors="replace")


def _words(text: str) -> str:
    """The sentence in an error's body: OpenAI's {"error": {"message"}}, others' {"message"}, {"detail"} or plain."""
    try:
        told = json.loads(text)
    except ValueError:
        told = text
    for _ in range(2):
        if isinstance(told, dict):
            told = told.get("error") or told.get("message") or told.get("detail") or text
    return " ".join(str(told).split())[:LONGEST_WORDS]
