# SPDX-License-Identifier: Apache-2.0
"""Idle time of environments, counted only while this process runs.

Setting the system clock adds no idle time, nor do hours in which this process was suspended
or did not run.
"""

import math
import threading
from collections.abc import Callable, Collection
from datetime import datetime, timedelta

from waggle_fsstore.domain.at_fork import register_at_fork


class IdleClock:
    """When each environment was last used, in running time of this process.

    ``uptime`` returns monotonic seconds, from any origin.
    """

    def __init__(self, uptime: Callable[[], float]) -> None:
        self._uptime = uptime
        self._max_gap_s = math.inf
        self._lock = threading.Lock()
        self._last_uptime = uptime()
        # Both in seconds of running time.
        self._elapsed = 0.0
        self._last_pass_end = 0.0
        # By id: the last_used of the environment, and the running time at that moment.
        self._idle_since: dict[str, tuple[datetime, float]] = {}
        register_at_fork(self)

    def reset_after_fork(self) -> None:
        """Replace the lock in a forked child: a thread of the parent may have held it."""
        self._lock = threading.Lock()

    def tick(self, max_gap_s: float) -> None:
        """Advance the clock.

        From now on, the clock advances at most ``max_gap_s`` seconds between two calls of any
        method: a longer gap means that this process was suspended.
        """
        with self._lock:
            self._max_gap_s = max_gap_s
            self._advance()

    @property
    def elapsed(self) -> timedelta:
        """The running time of this process since the clock was made."""
        with self._lock:
            self._advance()
            return timedelta(seconds=self._elapsed)

    def begin_pass(self, known: Collection[str]) -> None:
        """Begin a pass over all environments, and forget those whose id is not ``known``."""
        with self._lock:
            self._advance()
            self._idle_since = {
                key: since for key, since in self._idle_since.items() if key in known
            }

    def end_pass(self) -> None:
        """End the pass: the idle time of an environment first seen later starts no earlier."""
        with self._lock:
            self._last_pass_end = self._elapsed

    def restart(self, environment_id: str, last_used: datetime) -> None:
        """Restart the idle time of an environment that is used right now."""
        with self._lock:
            self._advance()
            self._idle_since[environment_id] = (last_used, self._elapsed)

    def idle_time(self, environment_id: str, last_used: datetime, now: datetime) -> timedelta:
        """Return how long an environment was idle at ``now``.

        For a ``last_used`` that this process has not seen before, the idle time starts at the
        end of the last pass at the earliest: until then it had another value.
        """
        with self._lock:
            self._advance()
            known, since = self._idle_since.get(environment_id, (None, 0.0))
            if known != last_used:
                claimed = self._elapsed - (now - last_used).total_seconds()
                since = min(max(claimed, self._last_pass_end), self._elapsed)
                self._idle_since[environment_id] = (last_used, since)
            return timedelta(seconds=self._elapsed - since)

    def _advance(self) -> None:
        now = self._uptime()
        self._elapsed += min(now - self._last_uptime, self._max_gap_s)
        self._last_uptime = now
