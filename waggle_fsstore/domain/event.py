# SPDX-License-Identifier: Apache-2.0
"""What a store remembers of each change: one event."""

import threading
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from waggle_fsstore.domain.environment import Environment, Status
from waggle_fsstore.domain.errors import HistoryPrunedError


class EventKind(StrEnum):
    """What happened to an environment."""

    CREATED = "created"
    UPDATED = "updated"
    DELETED = "deleted"
    #: A change made by hand, which the store noticed.
    EXTERNAL = "external"


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One change of one environment; immutable but for ``environment``, which is the caller's.

    - ``seq``: the number of the change. It rises, and may skip.
    - ``at``: when, in UTC, by the clock of whoever made the change.
    - ``revision``: that of the version it is about: the one it stored, then equal to
      ``seq``, or the one that it deleted.
    - ``status``: that of the version it stored, ``None`` for ``deleted``.
    - ``previous_status``: that of the version before, ``None`` if there was none.
    - ``actor``, ``reason``: see :class:`~waggle_fsstore.audit`.
    - ``environment``: the version it stored or deleted. No two events share one. ``None``
      only where the deleted one could not be read.
    """

    seq: int
    at: datetime
    kind: EventKind
    environment_id: str
    revision: int
    status: Status | None
    previous_status: Status | None
    actor: str
    reason: str
    environment: Environment | None = field(hash=False)

    def copy(self) -> "Event":
        """An independent copy, that of its environment included."""
        if self.environment is None:
            return self
        return replace(self, environment=self.environment.copy())


def check_range(after: int, until: int | None, *, oldest: int, last: int) -> None:
    """Refuse what a history of the events from ``oldest`` to ``last`` cannot answer for.

    ``oldest`` is ``last + 1`` where no event is kept. Raises ``ValueError`` for a cursor
    that is negative or beyond the last change, and :class:`HistoryPrunedError`.
    """
    if after < 0:
        raise ValueError(f"after: {after} is negative")
    if until is not None and until < 0:
        raise ValueError(f"until: {until} is negative")
    if after > last:
        raise ValueError(f"after: {after} is beyond the last change, {last}")
    if 0 < after < oldest - 1:
        raise HistoryPrunedError(oldest)


def check_timeout(timeout: float | None) -> None:
    """Refuse what is not a time to wait, in seconds. Raises ``ValueError``."""
    if timeout is not None and not 0 <= timeout <= threading.TIMEOUT_MAX:
        raise ValueError(f"timeout: {timeout!r} is not a number of seconds")
