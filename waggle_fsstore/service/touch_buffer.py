# SPDX-License-Identifier: Apache-2.0
"""A write-behind buffer of touches: uses are stored once a minute, together.

One fsync for each use would wear the disk and flood the history. A process that is killed
loses the uses of its last :data:`FLUSH_INTERVAL`.
"""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from waggle_fsstore.domain.at_fork import register_at_fork
from waggle_fsstore.domain.audit import audit
from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.errors import EnvironmentNotFoundError, LockTimeoutError, WaggleError
from waggle_fsstore.domain.repository import TransactionalRepository

#: The longest time for which a use waits to be stored.
FLUSH_INTERVAL: Final = timedelta(minutes=1)

# A stored use may be this much later than ours, because another process stored it. One that is
# later still dates from before the clock was set back.
_MAX_LEAD: Final = timedelta(minutes=1)

_log: Final = logging.getLogger(__name__)


# A reason that sums up uses names no more actors than this.
_MAX_ACTORS: Final = 5


class Use(NamedTuple):
    """What the history says of some uses: who ran how many programs, and how the last one ended."""

    actors: tuple[str, ...] = ()
    executions: int = 0
    outcome: str = ""

    def followed_by(self, later: "Use") -> "Use":
        """Return the sum of this and of a later use."""
        return Use(
            tuple(dict.fromkeys([*self.actors, *later.actors])),
            max(0, self.executions + later.executions),
            later.outcome or self.outcome,
        )

    @property
    def has_news(self) -> bool:
        """Whether it says more than that there was a use."""
        return bool(self.executions or self.outcome)

    @property
    def reason(self) -> str:
        """The reason of the change that stores them."""
        ended = f"the last one ended with {self.outcome}" if self.outcome else ""
        if not self.executions:
            return f"in use: {ended}" if ended else "in use"
        others = len(self.actors) - _MAX_ACTORS
        named = ", ".join(self.actors[:_MAX_ACTORS])
        who = f"{named} and {others} others" if others > 0 else named
        programs = "1 program" if self.executions == 1 else f"{self.executions} programs"
        return f"in use: {who} ran {programs}" + (f", {ended}" if ended else "")


#: A use in which no program ran.
IN_USE: Final = Use()


class _Pending(NamedTuple):
    at: datetime
    use: Use


class TouchBuffer:
    """The uses that are not stored yet. A timer runs while there are any."""

    def __init__(
        self, repository: TransactionalRepository, *, interval: timedelta = FLUSH_INTERVAL
    ) -> None:
        self._repository = repository
        self._interval = interval
        self._pending: dict[str, _Pending] = {}
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

    def add(self, environment_id: str, at: datetime, use: Use = IN_USE) -> None:
        """Add a use, to be stored within the interval."""
        with self._lock:
            known = self._pending.get(environment_id)
            if known is not None:
                at, use = max(known.at, at), known.use.followed_by(use)
            self._pending[environment_id] = _Pending(at, use)
            self._start_timer()

    def last_used(self, environment: Environment) -> datetime:
        """Return when an environment was last used, whether or not that is stored yet."""
        pending = self._pending.get(environment.id)
        return environment.last_used if pending is None else max(environment.last_used, pending.at)

    def flush(self) -> None:
        """Store the pending uses. A failure is logged, and tried again after the interval."""
        with self._flush_lock:
            with self._lock:
                if self._timer is not None:
                    self._timer.cancel()
                    self._timer = None
                pending = list(self._pending)
            for environment_id in pending:
                try:
                    self._store_one(environment_id)
                except LockTimeoutError as error:
                    _log.error("the last uses are not stored: %s", error)
                    break  # Each of the others would wait as long.
                except (WaggleError, OSError) as error:
                    _log.error(
                        "the last use of environment %s is not stored: %s", environment_id, error
                    )
            with self._lock:
                if self._pending:
                    self._start_timer()

    def store_executions(self, environment_id: str) -> None:
        """Store what ran in an environment now, if anything did: it is about to be removed."""
        pending = self._pending.get(environment_id)
        if pending is not None and pending.use.has_news:
            with self._flush_lock:
                self._store_one(environment_id)

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

    def _store_one(self, environment_id: str) -> None:
        """Store the uses of one environment. What comes in the meantime is for the next time."""
        taken = self._take(environment_id)
        if taken is None:
            return
        try:
            self._store(environment_id, taken)
        except BaseException:
            with self._lock:
                later = self._pending.get(environment_id, taken._replace(use=IN_USE))
                use = taken.use.followed_by(later.use)
                self._pending[environment_id] = later._replace(use=use)
            raise
        with self._lock:
            if self._pending.get(environment_id) == taken._replace(use=IN_USE):
                del self._pending[environment_id]

    def _take(self, environment_id: str) -> _Pending | None:
        """Return the uses to store. Their time stays: until it is stored, a reader needs it."""
        with self._lock:
            taken = self._pending.get(environment_id)
            if taken is not None:
                self._pending[environment_id] = taken._replace(use=IN_USE)
            return taken

    def _store(self, environment_id: str, pending: _Pending) -> None:
        # An environment that was destroyed, or is about to be, needs no use any longer.
        with (
            suppress(EnvironmentNotFoundError, _NotNeededError),
            audit(actor="touch", reason=pending.use.reason),
        ):
            self._repository.update(environment_id, _raise_last_used(pending))


class _NotNeededError(Exception):
    """The stored environment needs no change."""


def _raise_last_used(pending: _Pending) -> Callable[[Environment], None]:
    at = pending.at

    def raise_last_used(environment: Environment) -> None:
        is_later = at <= environment.last_used <= at + _MAX_LEAD
        if not pending.use.has_news and (is_later or not environment.is_running):
            raise _NotNeededError
        # What ran is in the history of an environment that is being removed, too.
        if environment.is_running and not is_later:
            environment.touch(at)

    return raise_last_used
