"""A race as it runs: one text under every policy, and the values that its view draws."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import TYPE_CHECKING

from ..model_info import ModelInfo
from ..race import CONTROL, Run, as_csv, as_rows, own_run, pareto_front, verdict
from .comparing import as_value
from .measuring import Text
from .stoppable import Stoppable
from .turn import Job, closing_iterator

if TYPE_CHECKING:  # plots is imported where a figure is drawn: matplotlib takes most of a second to come
    from matplotlib.figure import Figure

KINDS = ("PNG", "SVG", "CSV", "JSON")


class Race(Stoppable):
    """text: a reply, or what the visitor typed."""

    def __init__(self, text: Text | str, info: ModelInfo) -> None:
        super().__init__()
        self.text, self.info = text, info
        self.what = text.name if isinstance(text, Text) else "the typed text"
        self.runs: list[Run] = []

    def run(self, job: Job) -> Generator[str, None, None]:
        """Computes; yields values of the view after every run, and lastly the complete one."""
        if self.state != "waiting":
            return
        with self._running():
            results = job("race_text", self.text) if isinstance(self.text, str) else job(
                "race", self.text.prompt_ids, self.text.token_ids)
            with closing_iterator(results) as runs:
                for run in runs:
                    self.runs.append(run)
                    if self._stop.is_set():
                        self.stopped = True
                        break
                    yield self.value()
        yield self.value()

    def value(self) -> str:
        if not self.runs:
            return ""
        doing = f"{len(self.runs)} done, the last {self.runs[-1].name}" if self.state == "running" else ""
        return as_value({"doing": doing, "stopped": self.stopped, "tokens": int(self.runs[0].nll.size),
                         "what": self.what, "own_k": self.info.default_k, "control": CONTROL,
                         "verdict": verdict(self.runs, self.info.default_k),
                         "rows": as_rows(self.runs, self.info.default_k)})

    def figure(self, dark: bool = False) -> Figure:
        from ..race_plots import race_field

        families: dict[str, list[tuple[str, float, float, bool]]] = {}
        for run, ahead in zip(self.runs, pareto_front(self.runs), strict=True):
            families.setdefault(run.family, []).append((run.name, run.mean_k, run.mean_nll, ahead))
        own = own_run(self.runs, self.info.default_k)
        return race_field(families, (own.mean_k, own.mean_nll) if own else None, model=self.info.name, what=self.what,
                          num_tokens=int(self.runs[0].nll.size), control=CONTROL, dark=dark,
                          hardware=f"{self.info.device}, {self.info.dtype}")

    def file(self, kind: str) -> bytes:
        """One of KINDS."""
        if kind == "CSV":
            return as_csv(self.runs, self.info.default_k).encode()
        if kind == "JSON":
            return json.dumps({"model": self.info.name, "dtype": self.info.dtype, "text": self.what,
                               "own_k": self.info.default_k, "verdict": verdict(self.runs, self.info.default_k),
                               "runs": as_rows(self.runs, self.info.default_k)}).encode()
        from ..plots import to_png, to_svg

        return (to_png if kind == "PNG" else to_svg)(self.figure())
