# SPDX-License-Identifier: Apache-2.0
"""Touches: who used what when, stored every few seconds and not at each use.

A use a second must not be a flush a second: it would wear the disk and flood the
history. A process that is killed loses the uses of its last :data:`INTERVAL`.
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

#: No environment's uses are stored more often than this, and none waits longer.
INTERVAL: Final = timedelta(seconds=5)

# By how much another process can have noted a later use, and more.
_AHEAD: Final = timedelta(minutes=1)


class Touches:
    """The uses that are not stored yet. A timer runs while there are some."""

    def __init__(
        self, repository: TransactionalRepository, *, interval: timedelta = INTERVAL
    ) -> None:
        self._repository = repository
        self._interval = interval
        self._pending: dict[str, datetime] = {}
        self._timer: threading.Timer | None = None
        self._is_closed = False
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        register_at_fork(self)

    def reset_after_fork(self) -> None:
        """In a child: the parent stores what it noted, and its timer runs there."""
        self._pending = {}
        self._timer = None
        self._lock = threading.Lock()
        self._flushing = threading.Lock()

    def note(self, environment_id: str, at: datetime) -> None:
        """Remember a use; it is stored within the interval."""
        with self._lock:
            known = self._pending.get(environment_id)
            self._pending[environment_id] = at if known is None else max(known, at)
            self._start_timer()

    def last_used(self, environment: Environment) -> datetime:
        """When an environment was last used, whether or not that is stored yet."""
        at = self._pending.get(environment.id)
        return environment.last_used if at is None else max(environment.last_used, at)

    def flush(self) -> None:
        """Store what is not stored yet. What fails is told to the log, and tried again later."""
        with self._flushing:
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
                    break  # The others would wait for as long.
                except (WaggleError, OSError) as error:
                    _log.error(
                        "the last use of environment %s is not stored: %s", environment_id, error
                    )
                else:
                    self._forget(environment_id, at)
            with self._lock:
                if self._pending:
                    self._start_timer()

    def close(self) -> None:
        """Store what is not stored yet, and stop the timer, whether or not that succeeds."""
        self._is_closed = True
        self.flush()

    def _start_timer(self) -> None:
        """Have a flush made within the interval. The lock is held."""
        if self._timer is None and not self._is_closed:
            self._timer = threading.Timer(self._interval.total_seconds(), self.flush)
            # What it would store is stored by close: it must not hold up an exit.
            self._timer.daemon = True
            self._timer.start()

    def _forget(self, environment_id: str, at: datetime) -> None:
        """Not before it is stored: whoever asks for the last use must not miss it."""
        with self._lock:
            if self._pending.get(environment_id) == at:
                del self._pending[environment_id]

    def _store(self, environment_id: str, at: datetime) -> None:
        # Gone, or about to be: there is nothing to keep alive, and nothing comes back.
        with (
            suppress(EnvironmentNotFoundError, _NotNeededError),
            audit(actor="touch", reason="in use"),
        ):
            self._repository.update(environment_id, _raise_last_used(at))


class _NotNeededError(Exception):
    """There is nothing to store."""


def _raise_last_used(at: datetime) -> Callable[[Environment], None]:
    def change(environment: Environment) -> None:
        # A use that lies ahead was noted before the clock was set back.
        is_later = at <= environment.last_used <= at + _AHEAD
        if not environment.is_running or is_later:
            raise _NotNeededError
        environment.touch(at)

    return change


_log: Final = logging.getLogger(__name__)
