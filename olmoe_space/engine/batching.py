"""Continuous batching: chats join and leave between steps, and whoever finds the engine free steps for all that wait.

There is no thread of its own (flat combining, Hendler et al. 2010): of the chats' threads one leads, runs a step for
every lane that waits, hands out the results and passes the lead to the next that came meanwhile. A chat that stops
asking has left; there is nothing to cancel.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from .fair_lock import FairLock
from .kernels import Kernels, Step

SEATS = 32  # lanes a step, as many as the kernels decode at once
COMPANY_S = 0.002  # how long a step waits for chats that took part in the last one


class _Ticket:
    """One caller's lanes on their way through a step."""

    def __init__(self, lanes: Sequence[Any], stop_ids: frozenset[int]) -> None:
        self.lanes, self.stop_ids = lanes, stop_ids
        self.woken = threading.Event()
        self.leads = False
        self.steps: list[Step | Exception] | None = None
        self.error: BaseException | None = None


class Batcher:
    """Steps of many threads through one `Kernels`, `turn` held during each."""

    def __init__(self, kernels: Kernels, turn: FairLock) -> None:
        self._kernels, self._turn = kernels, turn
        self._changed = threading.Condition()
        self._waiting: list[_Ticket] = []
        self._led = False  # somebody leads
        self._company = 1  # callers that the next step expects

    def step(self, lanes: Sequence[Any], stop_ids: frozenset[int]) -> list[Step | Exception]:
        """`Kernels.step` of these lanes, together with those of other callers. Raises what the step raised."""
        mine = _Ticket(lanes, stop_ids)
        with self._changed:
            self._waiting.append(mine)
            mine.leads, self._led = not self._led, True
            self._changed.notify_all()
        if not mine.leads:
            mine.woken.wait()
        if mine.leads:
            self._lead(mine)
        if mine.error is not None:
            raise mine.error
        assert mine.steps is not None
        return mine.steps

    def _lead(self, mine: _Ticket) -> None:
        """Step `mine` with whoever else waits, then pass the lead on."""
        batch = [mine]
        try:
            self._wait_for_company()
            with self._turn:
                batch = self._board(mine)
                self._run(batch)
        except BaseException as error:
            for ticket in batch:
                ticket.error = error
        finally:
            self._hand_over(batch)

    def _wait_for_company(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) >= self._company, COMPANY_S)

    def _board(self, mine: _Ticket) -> list[_Ticket]:
        """`mine` and those that came first, as far as there are seats, with the same stop tokens."""
        with self._changed:
            batch, seats = [mine], SEATS - len(mine.lanes)
            for ticket in self._waiting:
                if ticket is not mine and len(ticket.lanes) <= seats and ticket.stop_ids == mine.stop_ids:
                    batch.append(ticket)
                    seats -= len(ticket.lanes)
            self._waiting = [ticket for ticket in self._waiting if ticket not in batch]
            return batch

    def _run(self, batch: list[_Ticket]) -> None:
        steps = self._kernels.step([lane for ticket in batch for lane in ticket.lanes], batch[0].stop_ids)
        for ticket in batch:
            ticket.steps, steps = steps[:len(ticket.lanes)], steps[len(ticket.lanes):]

    def _hand_over(self, batch: list[_Ticket]) -> None:
        with self._changed:
            self._waiting = [ticket for ticket in self._waiting if ticket not in batch]
            self._company = min(SEATS, len(batch) + len(self._waiting))
            self._led = bool(self._waiting)
            if self._led:
                self._waiting[0].leads = True
                self._waiting[0].woken.set()
        for ticket in batch:
            ticket.woken.set()
