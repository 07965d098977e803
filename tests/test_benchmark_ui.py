"""The tab Benchmark without a browser: what its fields ask for, what Stop keeps, what its files are."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from typing import Any

import pytest

from olmoe_space.performance import Claim
from olmoe_space.settings import Settings
from olmoe_space.ui.benchmark import FIGURES, KS, file_of
from olmoe_space.ui.benchmarking import Benchmarking, plan_from_fields

from .scripted import HOSTILE, INFO
from .test_performance import PLACE, run_at


def plan(prompt: Any = "Hello", ks: Any = "8, 16", tokens: Any = 16, repeats: Any = 2, stock: Any = True) -> Any:
    return plan_from_fields(INFO, Settings(), prompt, ks, tokens, repeats, stock)


class Jobs:
    """Scripted measurements; `asked` in order."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, name: str, *arguments: Any) -> Iterator[Any]:
        self.asked.append(name)
        if name == "machine":
            yield PLACE
        elif name == "speed_at_k":
            _, request, repeats, _ = arguments
            for done in range(1, repeats + 1):
                yield run_at(request.routing.num_experts_per_tok, repeats=done)
        else:
            yield [Claim("A", HOSTILE, "2", "not so here")]


def test_fields_become_one_request_a_k() -> None:
    made = plan(ks="64 8,8,16")
    assert [r.routing.num_experts_per_tok for r in made.requests] == [8, 16, 64] and made.repeats == 2
    assert all(r.sampling.temperature == 0 and r.sampling.max_new_tokens == 16 for r in made.requests)
    assert [r.routing.num_experts_per_tok for r in plan(ks=", ".join(map(str, KS))).requests] == list(KS)


@pytest.mark.parametrize(("fields", "said"), [
    ({"ks": "8, 65"}, "from 1 to 64"), ({"ks": ""}, "from 1 to 12"), ({"ks": "8, many"}, "many"),
    ({"tokens": 2}, "from 8"), ({"repeats": 0}, "Repeats"), ({"prompt": " "}, "empty")])
def test_what_cannot_be_run_is_said(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        plan(**fields)


def test_a_run_measures_each_k_and_checks_the_claims() -> None:
    jobs, running = Jobs(), Benchmarking(plan(), INFO)
    views = list(running.run(jobs))
    assert jobs.asked == ["machine", "speed_at_k", "speed_at_k", "claims"] and running.state == "done"
    assert all(view.isascii() and "<" not in view for view in views)
    assert "k=16, 2 of 2: repeat 2 of 2" in [json.loads(view)["doing"] for view in views]
    last = json.loads(views[-1])
    assert [row["k"] for row in last["rows"]] == [8, 16] and last["done"] == last["of"] == 4
    assert last["claims"][0]["claimed"] == HOSTILE and "2026-01-31" in last["where"] and last["doing"] == ""
    name, content = file_of("SVG", running)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.namelist() == [f"olmoe-{figure}.svg" for figure in FIGURES] and name.endswith(".zip")
    assert file_of("CSV", running)[1].startswith(b"k,") and json.loads(file_of("JSON", running)[1])["rows"]


def test_stop_keeps_what_was_measured() -> None:
    jobs, running = Jobs(), Benchmarking(plan(), INFO)
    frames = running.run(jobs)
    while not running.result.runs:
        next(frames)
    running.stop()
    last = json.loads(list(frames)[-1])
    assert last["stopped"] and [row["k"] for row in last["rows"]] == [8] and "claims" not in jobs.asked
    assert file_of("PNG", running)[1]
