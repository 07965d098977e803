"""Who may ask, and how often: bearer tokens, each with its requests and tokens of the last minute.

Knows nothing of HTTP but the Authorization header. One process counts for itself; it runs in one event loop, so
nothing here is locked. Tokens are compared in constant time and appear in no message.
"""

from __future__ import annotations

import hmac
import math
import time
from collections import deque
from collections.abc import Callable, Sequence

from ..settings import ApiKey
from .errors import Refused

WINDOW_S = 60.0
LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")


class Caller:
    """Whoever holds a key, and what was used within the last minute.

    Tokens of a request, its prompt's and its reply's, are known when it ends and count from then on.
    """

    def __init__(self, key: ApiKey, clock: Callable[[], float] = time.monotonic) -> None:
        self.key = key
        self._clock = clock
        self._requests: deque[float] = deque()            # when each was admitted
        self._tokens: deque[tuple[float, int]] = deque()  # when each request ended, and its tokens

    def admit(self) -> None:
        """Counts a request. Raises Refused, 429 with the seconds to wait, where a limit is reached."""
        now = self._clock()
        while self._requests and self._requests[0] <= now - WINDOW_S:
            self._requests.popleft()
        while self._tokens and self._tokens[0][0] <= now - WINDOW_S:
            self._tokens.popleft()
        most = self.key.requests_per_minute
        if most is not None and len(self._requests) >= most:
            raise _reached("requests", most, self._requests[-most] + WINDOW_S - now)
        most = self.key.tokens_per_minute
        if most is not None and (used := sum(tokens for _, tokens in self._tokens)) >= most:
            for ended, tokens in self._tokens:
                used -= tokens
                if used < most:
                    raise _reached("tokens", most, ended + WINDOW_S - now)
        self._requests.append(now)

    def used(self, tokens: int) -> None:
        """A request of so many tokens has ended."""
        self._tokens.append((self._clock(), tokens))


class Callers:
    """Those who hold a key. Without any key only this machine may ask: what is served to a network by mistake is not
    open to it."""

    def __init__(self, keys: Sequence[ApiKey], clock: Callable[[], float] = time.monotonic) -> None:
        self._callers = [Caller(key, clock) for key in keys]
        self._anyone_here = Caller(ApiKey(""), clock)

    def who(self, authorization: str | None, address: str | None) -> Caller:
        """authorization: the header. address: where the request came from. Raises Refused (401)."""
        if not self._callers:
            if address in LOOPBACK:
                return self._anyone_here
            raise Refused("This server has no API keys, so it answers this machine alone. Set OLMOE_API_KEYS where it "
                          "runs to serve others.", 401, code="invalid_api_key")
        scheme, _, token = (authorization or "").partition(" ")
        given = token.strip().encode("latin-1", "replace") if scheme.lower() == "bearer" else b""  # as headers travel
        if not given:
            raise Refused("No API key was given. Send one as the header Authorization: Bearer KEY.", 401,
                          code="invalid_api_key")
        found = [caller for caller in self._callers
                 if hmac.compare_digest(caller.key.token.encode(), given)]  # every one is compared
        if not found:
            raise Refused("The API key is not one of this server's.", 401, code="invalid_api_key")
        return found[0]


def _reached(what: str, most: int, wait_s: float) -> Refused:
    seconds = max(1, math.ceil(wait_s))
    return Refused(f"The limit of {most:,} {what} a minute for this API key is reached. Try again in {seconds} s.", 429,
                   type=what, code="rate_limit_exceeded", retry_after_s=seconds)
