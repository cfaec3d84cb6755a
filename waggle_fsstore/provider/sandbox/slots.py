# SPDX-License-Identifier: Apache-2.0
"""How many programs run at once: in one environment, and over all."""

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from waggle_fsstore.domain.at_fork import register_at_fork
from waggle_fsstore.domain.clock import monotonic

# Whether a waiting call is still wanted is asked this often.
_LOOK_INTERVAL_S: Final = 0.2


class Slots:
    """Admits at most ``per_environment`` programs of one environment, and ``total`` over all.

    They are admitted in the order in which they came; one whose environment runs as many as it may
    does not hold up those of others.
    """

    def __init__(self, per_environment: int, total: int = 0) -> None:
        self._per_environment = per_environment
        self._total = total or 2 * (os.cpu_count() or 1)
        self._running: Counter[str] = Counter()
        # The environments of those that wait, by a number that rises.
        self._waiting: dict[int, str] = {}
        self._last = 0
        self._changed = threading.Condition()
        register_at_fork(self)

    def reset_after_fork(self) -> None:
        """Forget the programs in a forked child: they belong to the parent."""
        self._running = Counter()
        self._waiting = {}
        self._changed = threading.Condition()

    @contextmanager
    def hold(
        self, environment_id: str, wait_s: float, is_wanted: Callable[[], bool]
    ) -> Iterator[str]:
        """Run the block in a slot; it gets "", or why there was none within ``wait_s`` seconds."""
        reason = self._enter(environment_id, wait_s, is_wanted)
        try:
            yield reason
        finally:
            if not reason:
                self._leave(environment_id)

    def _enter(self, environment_id: str, wait_s: float, is_wanted: Callable[[], bool]) -> str:
        deadline = monotonic() + wait_s
        with self._changed:
            self._last += 1
            number = self._last
            self._waiting[number] = environment_id
            try:
                while (reason := self._why_not(number)) and is_wanted():
                    remaining = deadline - monotonic()
                    if remaining <= 0:
                        break
                    self._changed.wait(min(remaining, _LOOK_INTERVAL_S))
            finally:
                del self._waiting[number]
                self._changed.notify_all()
            if not reason:
                self._running[environment_id] += 1
            return reason

    def _leave(self, environment_id: str) -> None:
        with self._changed:
            self._running[environment_id] -= 1
            if not self._running[environment_id]:
                del self._running[environment_id]
            self._changed.notify_all()

    def _why_not(self, number: int) -> str:
        """Return why a waiting program is not admitted now, "" if it is."""
        environment_id = self._waiting[number]
        if self._is_full(environment_id):
            return f"{self._per_environment} programs run in this environment already: try again"
        before = (self._waiting[one] for one in self._waiting if one < number)
        is_first = all(self._is_full(other) for other in before)
        if self._running.total() >= self._total or not is_first:
            return f"{self._total} programs run on this server already: try again"
        return ""

    def _is_full(self, environment_id: str) -> bool:
        return self._running[environment_id] >= self._per_environment
