# SPDX-License-Identifier: Apache-2.0
"""Leadership: which of the servers of a store reconciles and sweeps."""

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from waggle_fsstore.domain.clock import monotonic
from waggle_fsstore.domain.duration import format_duration
from waggle_fsstore.store.server_lock import ServerLock

# A leader without a beat for this number of intervals, and for at least this time, is stalled: a
# busy machine must not look like a stopped process.
_MAX_MISSED_BEATS: Final = 3
_MIN_PATIENCE: Final = timedelta(seconds=10)

_log: Final = logging.getLogger(__name__)


class Leadership:
    """The leader holds ``lock``; ``None`` stands for a store of this process alone.

    A process that is stopped keeps its lock. So the leader beats at each ``interval``, and a
    server that misses its beats takes its place until they are back. Nothing is done twice,
    because each removal is claimed in an atomic update; what a stopped leader had claimed waits
    for it. ``uptime`` returns monotonic seconds.
    """

    def __init__(
        self,
        lock: ServerLock | None,
        interval: timedelta,
        *,
        uptime: Callable[[], float] = monotonic,
    ) -> None:
        self._lock = lock
        self._interval_s = interval.total_seconds()
        self._patience = max(_MAX_MISSED_BEATS * interval, _MIN_PATIENCE)
        self._uptime = uptime
        self._looked_at = uptime()
        self._beat = 0
        self._silence_s = 0.0
        self._is_substitute = False

    @property
    def is_substitute(self) -> bool:
        """Whether this server sweeps in place of a leader that is stalled."""
        return self._is_substitute

    def try_to_lead(self) -> bool:
        """Return whether this server has to sweep now. Call it at least at each interval."""
        if self._lock is None:
            return True
        leads = self._lock.try_acquire()
        if leads:
            self._lock.beat()
        self._substitute(not leads and self._is_silent(self._lock))
        return leads or self._is_substitute

    def _is_silent(self, lock: ServerLock) -> bool:
        now = self._uptime()
        # Of a longer gap, in which this process was suspended, at most an interval counts: the
        # leader may have been suspended with it.
        gap_s = min(now - self._looked_at, self._interval_s)
        beat = lock.last_beat()
        self._silence_s = self._silence_s + gap_s if beat == self._beat else 0.0
        self._beat, self._looked_at = beat, now
        return self._silence_s >= self._patience.total_seconds()

    def _substitute(self, is_stalled: bool) -> None:
        if is_stalled == self._is_substitute or self._lock is None:
            return
        self._is_substitute = is_stalled
        holder = self._lock.holder() or "an unknown process"
        if is_stalled:
            _log.warning(
                "the server that sweeps, %s, has not done so for %s: if it is stopped, resume or "
                "end it; this server sweeps in its place",
                holder,
                format_duration(self._patience),
            )
        else:
            _log.info("this server no longer sweeps in place of another; %s does", holder)
