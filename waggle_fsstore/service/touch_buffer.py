# SPDX-License-Identifier: Apache-2.0
"""A write-behind buffer of touches: uses are stored every few seconds, together.

One fsync for each use would wear the disk and flood the history. A process that is killed
loses the uses of its last :data:`FLUSH_INTERVAL`.
"""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

from waggle_fsstore.domain.at_fork import register_at_fork
from waggle_fsstore.domain.audit import audit
from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.errors import EnvironmentNotFoundError, LockTimeoutError, WaggleError
from waggle_fsstore.domain.repository import TransactionalRepository

#: The longest time for which a use waits to be stored.
FLUSH_INTERVAL: Final = timedelta(seconds=5)

# A stored use may be this much later than ours, because another process stored it. One that is
# later still dates from before the clock was set back.
_MAX_LEAD: Final = timedelta(minutes=1)

_log: Final = logging.getLogger(__name__)


class TouchBuffer:
    """The uses that are not stored yet. A timer runs while there are any."""

    def __init__(
        self, repository: TransactionalRepository, *, interval: timedelta = FLUSH_INTERVAL
    ) -> None:
        self._repository = repository
        self._interval = interval
        self._pending: dict[str, datetime] = {}
        self._timer: threading.Timer | None = None
        self._is_closed = False
        self._lock = threading.Lock()
        self._flush_lock = threading.Lock()
        register_at_fork(self)

    def reset_after_fork(self) -> None:
        """Empty the buffer in a forked child: the timer of the parent stores the uses."""
        self._pending = {}
        self._timer = None
        self._lock = threading.Lock()
        self._flush_lock = threading.Lock()

    def add(self, environment_id: str, at: datetime) -> None:
        """Add a use, to be stored within the interval."""
        with self._lock:
            known = self._pending.get(environment_id)
            self._pending[environment_id] = at if known is None else max(known, at)
            self._start_timer()

    def last_used(self, environment: Environment) -> datetime:
        """Return when an environment was last used, whether or not that is stored yet."""
        at = self._pending.get(environment.id)
        return environment.last_used if at is None else max(environment.last_used, at)

    def flush(self) -> None:
        """Store the pending uses. A failure is logged, and tried again after the interval."""
        with self._flush_lock:
            with self._lock:
                if self._timer is not None:
                    self._timer.cancel()
                    self._timer = None
                pending = self._pending.copy()
            for environment_id, at in pending.items():
                try:
                    self._store(environment_id, at)
                except LockTimeoutError as error:
                    _log.error("the last uses are not stored: %s", error)
                    break  # Each of the others would wait as long.
                except (WaggleError, OSError) as error:
                    _log.error(
                        "the last use of environment %s is not stored: %s", environment_id, error
                    )
                else:
                    self._discard(environment_id, at)
            with self._lock:
                if self._pending:
                    self._start_timer()

    def close(self) -> None:
        """Store the pending uses, and stop the timer even if they cannot be stored."""
        self._is_closed = True
        self.flush()

    def _start_timer(self) -> None:
        """Schedule a flush, unless one is scheduled. The caller holds the lock."""
        if self._timer is None and not self._is_closed:
            self._timer = threading.Timer(self._interval.total_seconds(), self.flush)
            # A daemon, so that it does not delay the exit: close() stores what is pending.
            self._timer.daemon = True
            self._timer.start()

    def _discard(self, environment_id: str, at: datetime) -> None:
        """Discard a use, only now that it is stored: until then a reader needs it."""
        with self._lock:
            if self._pending.get(environment_id) == at:
                del self._pending[environment_id]

    def _store(self, environment_id: str, at: datetime) -> None:
        # An environment that was destroyed, or is about to be, needs no use any longer.
        with (
            suppress(EnvironmentNotFoundError, _NotNeededError),
            audit(actor="touch", reason="in use"),
        ):
            self._repository.update(environment_id, _raise_last_used(at))


class _NotNeededError(Exception):
    """The stored environment needs no change."""


def _raise_last_used(at: datetime) -> Callable[[Environment], None]:
    def raise_last_used(environment: Environment) -> None:
        is_later = at <= environment.last_used <= at + _MAX_LEAD
        if not environment.is_running or is_later:
            raise _NotNeededError
        environment.touch(at)

    return raise_last_used
