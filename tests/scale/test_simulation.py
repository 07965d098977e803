"""The simulation against what queueing theory says of cases that it can compute, and its own books."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest

from olmoe_space.__main__ import main
from olmoe_space.scale.service_times import MEASURED, ServiceTimes, from_benchmark
from olmoe_space.scale.simulation import LONGEST, Death, Fleet, Load, _Simulation, enough, simulate, smallest_fleet

NO_PROMPT = 1e-6


def service(step_s: float = 0.01, prompt_s: float = NO_PROMPT, growth: float = 0.0) -> ServiceTimes:
    """A step of r rows takes step_s x (1 + growth x (r - 1))."""
    return ServiceTimes((1, 64), (step_s, step_s * (1 + 63 * growth)), (100,), (prompt_s,), "paper")


def test_a_visitor_alone_waits_for_nobody():
    outcome = simulate(Load(1, think_s=5, new_tokens=20, prompt_tokens=100), Fleet(1), service(0.01, 0.2), 2000)
    assert np.allclose(outcome.first_token_s, 0.21) and np.allclose(outcome.tokens_per_s, 100)
    assert outcome.refused == outcome.moved == 0


def test_one_slot_is_the_machine_repair_model():
    """N visitors, exponential thinking Z and service S, one server: its utilisation by mean value analysis (Reiser and
    Lavenberg 1980)."""
    visitors, think_s, step_s, tokens = 6, 4.0, 0.01, 100
    mean = np.mean([1 + min(int(x), LONGEST - 1) for x in np.random.default_rng(0).exponential(tokens, 400_000)])
    waits, service_s = 0.0, mean * step_s
    for n in range(1, visitors + 1):  # n: population
        response = service_s * (1 + waits)
        rate = n / (think_s + response)
        waits = rate * response
    outcome = simulate(Load(visitors, think_s, tokens, 100), Fleet(1, slots=1), service(step_s), 20_000)
    assert outcome.replies_per_s == pytest.approx(rate, rel=0.02)


def test_a_full_replica_gives_slots_tokens_a_step_and_its_prompts():
    """Every row waits for a prompt's forward between two steps while prompts are read."""
    slots, tokens, step_s, prompt_s = 8, 50, 0.01, 0.05
    outcome = simulate(Load(200, think_s=1e-3, new_tokens=tokens, prompt_tokens=100), Fleet(1, slots, queue=500),
                       service(step_s, prompt_s), 1000)
    mean = np.mean([1 + min(int(x), LONGEST - 1) for x in np.random.default_rng(0).exponential(tokens, 400_000)])
    assert outcome.rows == pytest.approx(slots, rel=0.001)
    assert outcome.replies_per_s == pytest.approx(1 / (prompt_s + mean * step_s / slots), rel=0.06)


def test_littles_law():
    outcome = simulate(Load(60, 5, 80, 100), Fleet(3, slots=16), service(0.01, 0.03, growth=0.1), 3000)
    seconds = np.mean(outcome.first_token_s) + 80 / np.mean(outcome.tokens_per_s)
    assert 3 * outcome.rows == pytest.approx(outcome.replies_per_s * seconds, rel=0.1)


def test_nothing_is_lost_or_doubled_when_replicas_die():
    """At any moment each visitor thinks, waits or is computed, once."""
    simulation = _Simulation(Load(100, 3, 50, 100), Fleet(3, slots=8, queue=5), service(0.01, 0.05), seed=1)
    for visitor in range(100):
        simulation.think(visitor, 0.0)
    for at_s, replica in ((20, 0), (21, 1), (22, 2), (23, 1)):  # for a while there is none
        simulation.at(at_s, partial(simulation.die, Death(at_s, replica, 10)))
    for until in (10, 20.5, 25, 31, 60, 200):
        simulation.run(until)
        held = sum(replica.held for replica in simulation.replicas)
        requests = [r.visitor for r in simulation.waiting]
        requests += [row[2].visitor for replica in simulation.replicas for row in replica.rows]
        requests += [r.visitor for replica in simulation.replicas for _, r in replica.prompts]
        assert len(set(requests)) == len(requests) == held + len(simulation.waiting)
        assert all(0 <= free <= 8 for free in simulation.free)
        for replica, free in zip(simulation.replicas, simulation.free, strict=True):
            assert free == (8 - replica.held if replica.up else 0)
        thinking = 100 - len(requests)
        assert sum("think" in getattr(event, "__qualname__", "") for _, _, event in simulation.events) == thinking
    assert simulation.moved and simulation.refused and simulation.ended


def test_the_smallest_fleet_is_enough_and_one_less_is_not():
    load, times = Load(300, 5, 100, 100), service(0.01, 0.03, growth=0.1)
    fleet, outcome = smallest_fleet(load, times, 16, 64, 0.5, 200)
    assert enough(outcome, 0.5) and fleet.replicas > 1
    assert not enough(simulate(load, Fleet(fleet.replicas - 1, 16, 64), times, 200), 0.5)
    with pytest.raises(ValueError, match="cannot be had from more replicas"):
        smallest_fleet(load, times, 16, 64, 0.01)


def test_same_seed_same_outcome():
    same = [simulate(Load(50, 5, 80, 100), Fleet(2, 8), service(), 300, seed=s).first_token_s for s in (3, 3, 4)]
    assert np.array_equal(same[0], same[1]) and not np.array_equal(same[0], same[2])


def test_times_come_from_the_benchmark_that_the_readme_shows():
    mixed, at_8 = from_benchmark(MEASURED), from_benchmark(MEASURED, 8)
    told = json.loads(MEASURED.read_text())
    assert mixed.hardware == told["hardware"] and at_8.rows == mixed.rows == (1, 8, 32)
    assert 1 / at_8.step(1) == pytest.approx(next(d["tokens_per_s"] for d in told["decode"] if d["k"] == 8))
    assert mixed.step(8) < mixed.step(20) < mixed.step(32) < mixed.step(64) == 2 * mixed.step(32)
    assert mixed.prompt(4096) == 2 * mixed.prompt(2048)
    assert mixed.slower(2).step(20) == 2 * mixed.step(20) and mixed.slower(2).prompt(300) == 2 * mixed.prompt(300)
    with pytest.raises(ValueError, match="no steps at k = 7"):
        from_benchmark(MEASURED, 7)


@pytest.mark.parametrize("content", ["", "no JSON", "[]", '{"decode": 3}', '{"decode": [], "prefill": []}'])
def test_another_file_is_refused(tmp_path, content):
    file = tmp_path / "result.json"
    file.write_text(content)
    with pytest.raises(ValueError, match="benchmark"):
        from_benchmark(file)


def test_the_command(capsys):
    assert main(["capacity", "100", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["replicas"] == told["cells"] == 1 and told["as_it_is"]["refused"] == 0
    assert main(["capacity", "200", "--k", "8", "--think", "20"]) == 0
    assert "1 replicas and 1 spare" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["0"], ["many"], ["10", "--think", "0"], ["10", "--slots", "-3"],
                                       ["10", "--first-token", "0.001"], ["10", "--benchmark", "nowhere.json"],
                                       ["10", "--new-tokens", "nan"]])
def test_the_command_refuses_in_a_sentence(capsys, arguments):
    assert main(["capacity", *arguments]) == 2
    assert capsys.readouterr().err.startswith("error: ")
