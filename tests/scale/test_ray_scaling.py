"""Ray adds a replica when the first has more than it can take, as `serve --replicas 1..2` says."""

from __future__ import annotations

import pytest

from .replicas import alone, in_background, served, wait_for


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_replica_comes_with_the_load() -> None:
    with served("1..2") as engine:
        assert [one["replica"] for one in engine.state()["replicas"]] == ["1"]
        replies = []

        def has_come() -> bool:
            if all(reply.done() for reply in replies):
                replies.extend(in_background(engine, range(8)))
            return len(engine.state()["replicas"]) == 2

        wait_for(has_come)
        assert [tuple(reply.result(120).token_ids) for reply in replies] == \
            [alone(seed) for _ in range(len(replies) // 8) for seed in range(8)]

        def both_answer() -> bool:
            return len({reply.result(120).answered_by for reply in in_background(engine, range(8))}) == 2

        wait_for(both_answer)
