"""Values as they come -> numbers in their range, or a ValueError whose sentence says what is allowed."""

from __future__ import annotations

import math
from typing import Any


def whole_number(value: Any, name: str, low: int, high: int | None = None) -> int:
    """`value` as an int in [low, high]; 8.0 and "8" count as 8. Raises ValueError naming the range."""
    allowed = f"from {low} to {high}" if high is not None else f"of at least {low}"
    error = ValueError(f"{name} must be a whole number {allowed}; got {shown(value)}.")
    if isinstance(value, bool) or value is None:
        raise error
    try:
        number = float(value)
        if not math.isfinite(number) or number != int(number):
            raise error
        number = int(value) if isinstance(value, (int, str)) and "." not in str(value) else int(number)
    except (TypeError, ValueError, OverflowError):
        raise error from None
    if number < low or (high is not None and number > high):
        raise error
    return number


def real_number(value: Any, name: str, rule: str, accepts: Any) -> float:
    """`value` as a finite float for which `accepts` holds. Raises ValueError with the `rule` in words."""
    error = ValueError(f"{name} must be {rule}; got {shown(value)}.")
    if isinstance(value, bool) or value is None:
        raise error
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise error from None
    if not math.isfinite(number) or not accepts(number):
        raise error
    return number


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
