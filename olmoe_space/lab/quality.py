"""Quality against k over a set of texts: the truth meter text by text, so that what is done when it is stopped is
comparable: every setting has then seen the same texts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..comparison import Speed
from ..engine.engine import Engine
from ..request import Weighting
from ..truth import Score, joined, setting_name
from .teacher_forced import decode_speeds
from .truth_meter import truth_meter

HELD_OUT = Path(__file__).resolve().parents[2] / "assets" / "held_out.jsonl"  # written for this, trained on by nobody
WINDOW = 1024  # tokens: a longer text is scored in parts of so many, each without what stood before it


def read_texts(paths: Sequence[Path]) -> list[str]:
    """JSONL files: the "text" of every line; any other file: one text. Raises ValueError naming file and line."""
    texts = []
    for path in paths:
        try:
            content = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} could not be read as UTF-8 text: {error}") from None
        if path.suffix != ".jsonl":
            texts.append(content)
            continue
        for number, line in enumerate(content.splitlines(), 1):
            if line.strip():
                texts.append(_text_of(line, f"{path}, line {number}"))
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise ValueError("There is no text to measure. Give a JSONL file with \"text\" in each line, or a text file.")
    return texts


def _text_of(line: str, where: str) -> str:
    try:
        text = json.loads(line)["text"]
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"{where}: expected a JSON object with \"text\".") from None
    if not isinstance(text, str):
        raise ValueError(f"{where}: \"text\" must be a string.")
    return text


def windows(engine: Engine, text: str) -> list[list[int]]:
    """A text's token ids in parts that fit the context; parts of one token, which cannot be scored, are left out."""
    ids = list(engine.tokenizer(text, add_special_tokens=False)["input_ids"])
    size = min(WINDOW, engine.context_length)
    return [part for i in range(0, len(ids), size) if len(part := ids[i:i + size]) > 1]


def quality(engine: Engine, texts: Sequence[str], ks: Sequence[int],
            weightings: Sequence[Weighting]) -> Iterator[tuple[int, list[Score]]]:
    """(texts done, the Score of each setting over all of them) after every text; the model's own k is the first."""
    done: list[list[Score]] = []
    for number, text in enumerate(texts, 1):
        for ids in windows(engine, text):
            done.append([s for s in truth_meter(engine, [], ids, ks, weightings, speed=False) if isinstance(s, Score)])
        if done:
            yield number, [joined(scores) for scores in zip(*done, strict=True)]


def speeds(engine: Engine, scores: Sequence[Score], text: str) -> list[Speed]:
    """Decode speed alone at each k of `scores`, measured on the beginning of `text`."""
    return decode_speeds(engine, [s.num_experts_per_tok for s in scores], windows(engine, text)[0])


def as_rows(scores: Sequence[Score], measured: Sequence[Speed]) -> list[dict[str, Any]]:
    """One plain dict a setting; nats a token, perplexity = exp of it, tokens a second (None if not measured)."""
    rate = {s.num_experts_per_tok: round(s.tokens_per_s, 2) for s in measured}
    return [{"k": s.num_experts_per_tok, "weighting": s.weighting, "tokens": len(s.nll),
             "total_nll": round(s.total_nll, 4), "mean_nll": round(s.mean_nll, 6),
             "perplexity": round(s.perplexity, 4), "mean_kl": round(s.mean_kl, 6),
             "tokens_per_s": rate.get(s.num_experts_per_tok)} for s in scores]


def as_table(scores: Sequence[Score], measured: Sequence[Speed]) -> str:
    rate = {s.num_experts_per_tok: f"{s.tokens_per_s:.1f}" for s in measured}
    lines = [f"{'setting':<24}{'nats/token':>11}{'change':>9}{'perplexity':>12}{'KL':>9}{'tok/s':>8}"]
    own = scores[0].mean_nll
    lines += [f"{setting_name(s):<24}{s.mean_nll:>11.4f}{s.mean_nll - own:>+9.4f}{s.perplexity:>12.2f}"
              f"{s.mean_kl:>9.4f}{rate.get(s.num_experts_per_tok, '-'):>8}" for s in scores]
    return "\n".join(lines)
