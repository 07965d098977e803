"""A survey as it runs: one text, or two, as the routers dealt with them; and what the page and the files say of it.

Belongs to one visitor and keeps what it has; see `stoppable`. Knows nothing of the page's components or of the model.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..request import RoutingPolicy, visible_message
from ..settings import Settings
from ..survey import Overlap, Survey
from .compare import Opened
from .stoppable import reason_of
from .turn import Job, Turn, closing_iterator

THIS, OTHER = "this text", "the other text"


class Surveying:
    """asked: a job's name and its arguments. refusal: why nothing came. state: "waiting", then "done"."""

    def __init__(self, *asked: Any) -> None:
        self.asked = asked
        self.state, self.refusal = "waiting", ""
        self.surveys: list[Survey] = []
        self.overlap: Overlap | None = None

    def run(self, job: Job) -> None:
        if self.state != "waiting":
            return
        try:
            with closing_iterator(job(*self.asked)) as results:
                for result in results:
                    if isinstance(result, Overlap):
                        self.overlap = result
                    else:
                        self.surveys.append(result)
        except Exception as error:
            self.refusal = reason_of(error)
        finally:
            self.state = "done"

    def shown(self) -> dict[str, Any]:
        return {"surveys": [_shown(survey) for survey in self.surveys],
                "divergence": self.overlap.divergence.round(5).tolist() if self.overlap else None}

    def rows(self) -> Iterator[list[Any]]:
        """As `studying.HEAD`: what, group, tokens, layer, expert, share."""
        for survey in self.surveys:
            yield from share_rows("text", survey.name, len(survey.pieces), survey.counts / len(survey.pieces))


def survey_of_texts(text: Any, other: Any, policy: RoutingPolicy, settings: Settings) -> Surveying:
    """What was typed -> a survey of it. Raises ValueError for what cannot be read."""
    texts = [(THIS, visible_message(text, settings.max_message_chars))]
    if isinstance(other, str) and other.strip():
        texts.append((OTHER, visible_message(other, settings.max_message_chars)))
    return Surveying("survey", texts, policy)


def survey_of_reply(opened: Opened, turn: Turn) -> Surveying:
    text, started = opened.text, turn.recorder.started
    assert started is not None  # there is a reply
    return Surveying("survey_reply", text.prompt_ids, text.token_ids, turn.question.request.routing, text.name,
                     started.seed)


def _shown(survey: Survey) -> dict[str, Any]:
    return {"name": survey.name, "pieces": survey.pieces, "k": round(survey.mean_k, 2),
            "counts": survey.counts.tolist(), "selected": packed(survey.selected_experts, "u1"),
            "max_over_mean": survey.max_over_mean.round(3).tolist(), "variation": survey.variation.round(3).tolist(),
            "entropy": survey.entropy.round(3).tolist(),
            "mass": {str(k): mass.round(4).tolist() for k, mass in survey.mass.items()},
            "pairs": packed(np.minimum(survey.pair_counts, 65535), "<u2")}


def packed(values: np.ndarray, kind: str) -> str:
    """base64 of the values, little-endian."""
    return base64.b64encode(np.ascontiguousarray(values, kind).tobytes()).decode("ascii")


def share_rows(what: str, group: str, tokens: int, share: np.ndarray) -> Iterator[list[Any]]:
    """share [L, E] -> a row a cell."""
    for layer, values in enumerate(share.tolist()):
        for expert, value in enumerate(values):
            yield [what, group, tokens, layer, expert, round(value, 6)]


