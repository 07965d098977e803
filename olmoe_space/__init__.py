"""OLMoE with a k for every request. `load` is the door for programs; the page is app.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .library import Olmoe

__all__ = ["load"]


def load(model: str | None = None, **options: Any) -> Olmoe:
    """See `library.load`. torch is imported when this is called: `import olmoe_space` alone stays quick."""
    from .library import load as load_now

    return load_now(model, **options)
