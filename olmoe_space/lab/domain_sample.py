"""The texts over which specialisation is measured: a few dozen short ones a domain (assets/domain_sample)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "assets" / "domain_sample"


@dataclass(frozen=True)
class SampleText:
    """topic: "" where a text has none."""

    text: str
    domain: str
    topic: str = ""


def sample_texts(domain: str) -> list[SampleText]:
    """All texts of a domain. Raises ValueError for one that is not there."""
    if domain not in domains():
        raise ValueError(f"Domain must be one of {', '.join(domains())}; got {domain[:40]!r}.")
    lines = (FOLDER / f"{domain}.jsonl").read_text("utf-8").splitlines()
    return [SampleText(entry["text"], domain, entry.get("topic", "")) for entry in map(json.loads, lines)]


def domains() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in FOLDER.glob("*.jsonl")))
