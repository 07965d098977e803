"""Jobs and their results between a front end and a replica: frames of a kind, a length and a payload.

Arguments and events are pickled, which is fastest for arrays, but read by a reader that builds nothing but arrays and
this package's own records (docs.python.org, "Restricting Globals"): whoever reaches the port can ask for a reply, not
for code to be run.
"""

from __future__ import annotations

import dataclasses
import io
import pickle
import struct
from collections.abc import Iterator
from enum import Enum
from typing import Any

NAME, EVENTS, REFUSED, FAILED, ALIVE, END = (bytes([letter]) for letter in b"nerfaz")
"""Who answers (text); some results (a pickled list); a ValueError's sentence; any other error in words; nothing yet,
but at work; the job has ended. A stream that ends without END, REFUSED or FAILED was cut off."""

HEADER = struct.Struct("!cI")
PACKAGE = __name__.split(".")[0]
ARRAYS = {("numpy", "ndarray"), ("numpy", "dtype"), ("numpy._core.multiarray", "_reconstruct"),
          ("numpy._core.multiarray", "scalar"), ("numpy._core.numeric", "_frombuffer")}
PLAIN = {("builtins", "set"), ("builtins", "frozenset"), ("collections", "Counter")}


def frame(kind: bytes, payload: bytes = b"") -> bytes:
    return HEADER.pack(kind, len(payload)) + payload


class Frames:
    """Bytes as they come -> (kind, payload) of every frame that is complete."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        data, at = self._rest + data, 0
        while at + HEADER.size <= len(data):
            kind, length = HEADER.unpack_from(data, at)
            end = at + HEADER.size + length
            if end > len(data):
                break
            yield kind, data[at + HEADER.size:end]
            at = end
        self._rest = data[at:]


def dumps(value: Any) -> bytes:
    return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)


def loads(data: bytes) -> Any:
    """The inverse of `dumps`. Raises pickle.UnpicklingError for anything but plain values, arrays and our records."""
    return _Reader(io.BytesIO(data)).load()


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in ARRAYS | PLAIN:
            return super().find_class(module, name)
        if module.split(".")[0] == PACKAGE and "." not in name:
            found = super().find_class(module, name)
            if isinstance(found, type) and found.__module__ == module and _is_record(found):
                return found
        raise pickle.UnpicklingError(f"{module}.{name} is not among what a job may carry.")


def _is_record(found: type) -> bool:
    return dataclasses.is_dataclass(found) or issubclass(found, (Enum, tuple))
