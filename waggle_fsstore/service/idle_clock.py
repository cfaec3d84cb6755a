# SPDX-License-Identifier: Apache-2.0
"""Idleness: how long environments were not used, by time that this process has lived through.

Neither a clock that somebody sets, nor hours in which this process was stopped or not
there, make an environment idle.
"""

import math
import threading
from collections.abc import Callable, Collection
from datetime import datetime, timedelta

from waggle_fsstore.domain.at_fork import register_at_fork


class Idleness:
    """Since when each environment was not used.

    ``uptime`` tells the seconds since some moment.
    """

    def __init__(self, uptime: Callable[[], float]) -> None:
        self._uptime = uptime
        self._longest_gap = math.inf
        self._lock = threading.Lock()
        self._looked = uptime()
        self._lived = 0.0
        # When the last pass over all environments ended.
        self._before = 0.0
        self._seen: dict[str, tuple[datetime, float]] = {}
        register_at_fork(self)

    def reset_after_fork(self) -> None:
        """In a child: another thread of the parent may have held the lock."""
        self._lock = threading.Lock()

    def keep_time(self, longest_gap: float) -> None:
        """Note that time passes.

        Where more than so many seconds lie between two calls, this process was stopped, and
        no more of them count.
        """
        with self._lock:
            self._longest_gap = longest_gap
            self._look()

    def begin_pass(self, known: Collection[str]) -> None:
        """Note that all environments are looked at now, and forget those that are gone."""
        with self._lock:
            self._look()
            self._seen = {key: seen for key, seen in self._seen.items() if key in known}

    def end_pass(self) -> None:
        """Note that they were: what is new from now on was not there before."""
        with self._lock:
            self._before = self._lived

    def note(self, environment_id: str, last_used: datetime) -> None:
        """An environment is used right now."""
        with self._lock:
            self._look()
            self._seen[environment_id] = (last_used, self._lived)

    def of(self, environment_id: str, last_used: datetime, now: datetime) -> timedelta:
        """How long an environment was idle that says when it was last used, at ``now``.

        What it says counts only as far back as this process has not seen it say otherwise.
        """
        with self._lock:
            self._look()
            seen, since = self._seen.get(environment_id, (None, 0.0))
            if seen != last_used:
                told = self._lived - (now - last_used).total_seconds()
                since = min(max(told, self._before), self._lived)
                self._seen[environment_id] = (last_used, since)
            return timedelta(seconds=self._lived - since)

    def _look(self) -> None:
        now = self._uptime()
        self._lived += min(now - self._looked, self._longest_gap)
        self._looked = now
