"""Which replica gets a request: the one with the most free slots.

Ray's own router compares two replicas drawn at random, which suits thousands of short requests; a reply takes seconds
and a machine has few replicas, so all are compared. The engine keeps nothing of a chat between two requests, so no
replica is nearer to a chat than another.
"""

from __future__ import annotations

import random

from ray.serve.request_router import FIFOMixin, PendingRequest, RequestRouter, RunningReplica


class MostFreeSlots(FIFOMixin, RequestRouter):
    """Of the replicas that it is handed, RequestRouter takes the one with the shortest queue, the first among equals,
    so that their order is drawn."""

    async def choose_replicas(self, candidate_replicas: list[RunningReplica],
                              pending_request: PendingRequest | None = None) -> list[list[RunningReplica]]:
        return [random.sample(candidate_replicas, len(candidate_replicas))]
