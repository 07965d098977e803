"""A benchmark's records -> a table to read, a JSON object to keep, points to draw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from .agreement import TIE_STEPS, Agreement
from .benchmark_records import Chats, Decode, Prefill, Record, Tracing


def as_json(machine: dict[str, Any], records: Sequence[Record]) -> dict[str, Any]:
    """`machine` and, a kind of record, a list of its fields: bytes, seconds, tokens a second, shares of one."""
    return machine | {
        "decode": [asdict(r) | {"share_of_limit": r.share_of_limit} for r in records if isinstance(r, Decode)],
        "prefill": [asdict(r) for r in records if isinstance(r, Prefill)],
        "tracing": [asdict(r) | {"cost": r.cost} for r in records if isinstance(r, Tracing)],
        "chats": [asdict(r) for r in records if isinstance(r, Chats)],
        "agreement": [asdict(r) | {"different": r.different, "ties": r.ties} for r in records
                      if isinstance(r, Agreement)]}


def as_table(records: Sequence[Record]) -> str:
    lines = []
    decodes = [r for r in records if isinstance(r, Decode)]
    if decodes:
        recipes = list(dict.fromkeys(name for r in decodes for name in r.stock_tokens_per_s))
        lines.append(f"{'decode':<22}{'batch':>6}{'k':>6}{'tok/s':>10}{'limit':>10}{'of it':>8}{'MB/step':>10}"
                     f"{'peak MB':>10}"
                     + "".join(f"{'stock ' + name:>20}{'ratio':>8}" for name in recipes))
        lines += [_decode(r, recipes) for r in decodes]
    prefills = [r for r in records if isinstance(r, Prefill)]
    if prefills:
        lines.append(f"{'prefill':<9}{'k':>6}{'ms':>10}{'stock ms':>10}{'ratio':>8}{'slowest chunk ms':>18}"
                     f"{'first token ms':>16}")
        lines += [_prefill(r) for r in prefills]
    for record in records:
        if isinstance(record, Tracing):
            lines.append(f"tracing at k={record.k}: {record.tokens_per_s:.1f} tok/s with events, "
                         f"{record.kernels_tokens_per_s:.1f} without: {100 * record.cost:.1f} %")
        elif isinstance(record, Chats):
            lines.append(f"{record.chats} chats at once at k={record.k}: {record.tokens_per_s:.1f} tok/s together, "
                         f"one alone {record.one_tokens_per_s:.1f}: "
                         f"{record.tokens_per_s / record.one_tokens_per_s:.2f}")
        elif isinstance(record, Agreement):
            lines.append(_agreement(record))
    return "\n".join(lines)


def _decode(r: Decode, recipes: Sequence[str]) -> str:
    line = (f"{r.weights:<22}{r.batch:>6}{r.k or 'mixed':>6}{r.tokens_per_s:>10.1f}{r.limit_tokens_per_s:>10.1f}"
            f"{100 * r.share_of_limit:>6.1f} %{r.bytes_per_step / 1e6:>10.1f}{r.peak_bytes / 1e6:>10.0f}")
    for name in recipes:
        stock = r.stock_tokens_per_s.get(name)
        if stock:
            line += f"{stock:>20.1f}{r.tokens_per_s / stock:>8.2f}"
        else:
            line += f"{'-' if stock is None else 'out of memory':>20}{'-':>8}"
    return line


def _agreement(r: Agreement) -> str:
    line = f"greedy at batch {r.batch}, k={r.k}: {r.tokens - r.different} of {r.tokens} tokens are stock's"
    if not r.different:
        return line
    return (f"{line}; of the other {r.different}, {r.ties} are ties (at most {TIE_STEPS} steps of the dtype), the "
            f"largest margin {max(r.margin_steps):.0f} steps")


def _prefill(r: Prefill) -> str:
    stock = f"{1000 * r.stock_seconds:>10.1f}{r.stock_seconds / r.seconds:>8.2f}" if r.stock_seconds else \
        f"{'-':>10}{'-':>8}"
    return (f"{r.tokens:<9}{r.k:>6}{1000 * r.seconds:>10.1f}{stock}{1000 * r.chunk_s:>18.1f}"
            f"{1000 * r.first_token_s:>16.1f}")


def curve(records: Sequence[Record]) -> tuple[list[int], dict[str, list[float]]]:
    """Ks, and tokens a second at batch 1 for here, the limit and each stock recipe. ValueError if none."""
    alone = [r for r in records if isinstance(r, Decode) and r.batch == 1 and r.k]
    points = sorted((r for r in alone if r.weights == alone[0].weights), key=lambda r: r.k or 0)
    if not points:
        raise ValueError("There is no decode speed at batch 1 to draw.")
    ks = [r.k for r in points if r.k]
    lines = {"here": [r.tokens_per_s for r in points], "limit": [r.limit_tokens_per_s for r in points]}
    for name in points[0].stock_tokens_per_s:
        lines[f"stock {name}"] = [r.stock_tokens_per_s[name] or math.nan for r in points]
    return ks, lines
