# SPDX-License-Identifier: Apache-2.0
"""Event: the record that a store keeps of each change."""

import re
import threading
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Final, NamedTuple

from waggle_fsstore.domain.environment import Environment, Status
from waggle_fsstore.domain.errors import HistoryPrunedError

_match_after: Final = re.compile(r"(-?[0-9]{1,20})(?:-([0-9a-f]{16}))?").fullmatch


class EventKind(StrEnum):
    """The kind of a change to an environment."""

    CREATED = "created"
    UPDATED = "updated"
    DELETED = "deleted"
    #: A manual edit that the store detected.
    EXTERNAL = "external"


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One change of one environment. Immutable, except that the caller owns ``environment``.

    - ``seq``: the sequence number of the change. Numbers rise, and some may be skipped.
    - ``cursor``: the place of the change in this history, for ``history`` and ``watch`` to
      continue after it. To be kept and passed back only. Equality of events leaves it out.
    - ``at``: the time in UTC, by the clock of the process that made the change.
    - ``revision``: the revision of the version that was stored, then equal to ``seq``, or
      of the version that was deleted.
    - ``status``: the status of the version that was stored, ``None`` for ``deleted``.
    - ``previous_status``: the status of the version before, ``None`` if there was none.
    - ``actor``, ``reason``: see :class:`~waggle_fsstore.audit`.
    - ``environment``: the version that was stored or deleted. No two events share one.
      ``None`` only where the deleted one was unreadable.
    """

    seq: int
    cursor: str = field(default="", compare=False)
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
        """Return an independent copy, including one of its environment."""
        if self.environment is None:
            return self
        return replace(self, environment=self.environment.copy())


class EventFilter(NamedTuple):
    """Which events are wanted; a field that is empty excludes none.

    ``actor`` is a part of the name, in upper or lower case. ``since`` and ``until`` are in UTC,
    and an event at that very time is wanted.
    """

    environments: frozenset[str] = frozenset()
    actor: str = ""
    kinds: frozenset[EventKind] = frozenset()
    since: datetime | None = None
    until: datetime | None = None

    def matches(self, event: Event) -> bool:
        """Return whether an event is wanted."""
        return self.accepts(event.environment_id, event.actor, event.kind, event.at)

    def accepts(self, environment_id: str, actor: str, kind: str, at: datetime) -> bool:
        """Return whether an event with these values is wanted."""
        return (
            (not self.environments or environment_id in self.environments)
            and self.accepts_actor(actor)
            and (not self.kinds or kind in self.kinds)
            and (self.since is None or at >= self.since)
            and (self.until is None or at <= self.until)
        )

    def accepts_actor(self, actor: str) -> bool:
        """Return whether an event of an actor may be wanted."""
        return self.actor.casefold() in actor.casefold()


def cursor_of(seq: int, token: str) -> str:
    """Return the cursor of a change; ``token``, 16 hex digits, tells its history from others."""
    return f"{seq}-{token}"


def parse_after(after: int | str) -> tuple[int, str]:
    """Return the number in a cursor and its token, which is "" for a plain number."""
    match = _match_after(after) if isinstance(after, str) else None
    if match is not None:
        return int(match[1]), match[2] or ""
    if isinstance(after, str):
        raise ValueError(f"after: {after!r:.100} is neither the cursor of an event nor a number")
    return after, ""


def check_range(after: int, until: int | None, *, oldest: int, last: int) -> None:
    """Check that a history of the events from ``oldest`` to ``last`` covers a range.

    ``oldest`` is ``last + 1`` where no event is kept. Raises ``ValueError`` for a number
    that is negative, and for an ``after`` beyond the last change;
    :class:`HistoryPrunedError` for an ``after`` whose following events are no longer kept.
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
    """Raise ``ValueError`` if a timeout is not a number of seconds that a thread can wait."""
    if timeout is not None and not 0 <= timeout <= threading.TIMEOUT_MAX:
        raise ValueError(f"timeout: {timeout!r} is not a number of seconds")
