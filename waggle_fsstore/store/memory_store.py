# SPDX-License-Identifier: Apache-2.0
"""MemoryStore: environments in a dict. The reference model that every store is tested against."""

import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from operator import attrgetter
from types import TracebackType
from typing import ClassVar, Self

from waggle_fsstore.domain.at_fork import register_at_fork
from waggle_fsstore.domain.audit import current_author
from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.errors import (
    CapacityError,
    ConflictError,
    EnvironmentAlreadyExistsError,
    EnvironmentNotFoundError,
    HistoryPrunedError,
    StoreClosedError,
)
from waggle_fsstore.domain.event import Event, EventKind, check_range, check_timeout
from waggle_fsstore.store.format import codec
from waggle_fsstore.store.write import inputs


class MemoryStore:
    """Environments in memory, for tests and as a fallback; gone with the process.

    The contract is :class:`~waggle_fsstore.TransactionalRepository`. What a FileStore
    refuses to keep, it refuses too. It keeps the last 100,000 events.
    """

    HISTORY_LIMIT: ClassVar[int] = 100_000

    def __init__(self) -> None:
        # Reentrant, because a function passed to update() may read.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._environments: dict[str, Environment] = {}
        self._events: deque[Event] = deque()
        self._last = 0
        self._pending: list[Event] = []
        self._closed = False
        register_at_fork(self)

    def find_by_id(self, environment_id: str) -> Environment:
        """See :meth:`TransactionalRepository.find_by_id`."""
        with self._lock:
            return self._find(environment_id).copy()

    def find_all(
        self,
        *,
        on_corrupt: Callable[[Exception], object] | None = None,  # noqa: ARG002  # nothing is
    ) -> list[Environment]:
        """See :meth:`TransactionalRepository.find_all`."""
        with self._lock:
            self._begin()
            return [self._environments[key].copy() for key in sorted(self._environments)]

    def count(self) -> int:
        """See :meth:`TransactionalRepository.count`."""
        with self._lock:
            self._begin()
            return len(self._environments)

    def save(self, environment: Environment, *, if_revision: int | None = None) -> int:
        """See :meth:`TransactionalRepository.save`."""
        environment = inputs.checked_copy(environment)
        with self._lock:
            self._begin_writing()
            stored = self._environments.get(environment.id)
            actual = stored.revision if stored else 0
            if if_revision is not None and if_revision != actual:
                raise ConflictError(environment.id, if_revision, actual)
            return self._store([environment])[0]

    def create(self, environment: Environment, *, capacity: int | None = None) -> int:
        """See :meth:`TransactionalRepository.create`."""
        environment = inputs.checked_copy(environment)
        with self._lock:
            self._begin_writing()
            if environment.id in self._environments:
                raise EnvironmentAlreadyExistsError(environment.id)
            if capacity is not None:
                live = sum(other.status.is_live for other in self._environments.values())
                if live >= capacity:
                    raise CapacityError(capacity)
            return self._store([environment])[0]

    def update(self, environment_id: str, change: Callable[[Environment], object]) -> Environment:
        """See :meth:`TransactionalRepository.update`."""
        inputs.refuse_inside(id(self))
        for _ in range(inputs.OPTIMISTIC_TRIES):
            found = self.find_by_id(environment_id)
            changed = inputs.apply(id(self), change, found)
            with self._lock:
                if self._find(environment_id).revision == found.revision:
                    self._store([changed])
                    return changed.copy()
        with self._lock:
            changed = inputs.apply(id(self), change, self._find(environment_id))
            self._store([changed])
            return changed.copy()

    def save_all(self, environments: Iterable[Environment]) -> list[int]:
        """See :meth:`TransactionalRepository.save_all`."""
        batch = inputs.checked_copies(environments)
        with self._lock:
            self._begin_writing()
            return self._store(batch)

    def delete(self, environment_id: str) -> None:
        """See :meth:`TransactionalRepository.delete`."""
        with self._lock:
            self._begin_writing()
            removed = self._find(environment_id)
            self._commit([_event(self._last + 1, EventKind.DELETED, removed, removed)])

    def history(
        self, environment_id: str | None = None, *, after: int = 0, until: int | None = None
    ) -> Iterator[Event]:
        """See :meth:`TransactionalRepository.history`."""
        with self._lock:
            self._begin()
            self._check_range(after, until)
            end = len(self._events) if until is None else self._position(until)
            events = list(islice(self._events, self._position(after), end))
        return (event.copy() for event in events if environment_id in (None, event.environment_id))

    def watch(self, *, after: int | None = None, timeout: float | None = None) -> Iterator[Event]:
        """See :meth:`TransactionalRepository.watch`."""
        check_timeout(timeout)
        with self._lock:
            self._begin()
            self._check_range(self._last if after is None else after)
            cursor = self._last if after is None else max(after, self._oldest() - 1)

        def following() -> Event | None:
            self._begin()
            if cursor < self._oldest() - 1:
                raise HistoryPrunedError(self._oldest())
            position = self._position(cursor)
            return self._events[position] if position < len(self._events) else None

        def wait() -> Event | None:
            nonlocal cursor
            # Waiting gives up the lock, which update() may hold around what it was passed.
            inputs.refuse_inside(id(self))
            with self._lock:
                event = self._changed.wait_for(following, timeout)
                if event is not None:
                    cursor = event.seq
            return event and event.copy()

        # No generator: it would be at its end after an interrupt, and the rest lost.
        return iter(wait, None)

    def close(self) -> None:
        """See :meth:`TransactionalRepository.close`. What was kept is gone."""
        inputs.refuse_inside(id(self))
        with self._lock:
            self._closed = True
            self._changed.notify_all()
            self._environments.clear()
            self._events.clear()

    def __enter__(self) -> Self:
        with self._lock:
            self._begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def reset_after_fork(self) -> None:
        """In a child: another thread of the parent may have held the lock, or waited."""
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)

    def _begin(self) -> None:
        if self._closed:
            raise StoreClosedError
        self._settle()

    def _begin_writing(self) -> None:
        inputs.refuse_inside(id(self))
        self._begin()

    def _find(self, environment_id: str) -> Environment:
        self._begin()
        try:
            return self._environments[environment_id]
        except (KeyError, TypeError):
            raise EnvironmentNotFoundError(environment_id) from None

    def _store(self, environments: list[Environment]) -> list[int]:
        """Keep these copies, all or none, and give them their revisions. The lock is held."""
        events = []
        for revision, environment in enumerate(environments, self._last + 1):
            codec.encode(environment, revision)  # Refuses what fits in no document.
            environment.revision = revision
            before = self._environments.get(environment.id)
            kind = EventKind.UPDATED if before else EventKind.CREATED
            events.append(_event(revision, kind, environment, before))
        self._commit(events)
        return [event.seq for event in events]

    def _commit(self, events: list[Event]) -> None:
        """Make these changes, all or none. The lock is held."""
        # One assignment, so that an interrupt comes before the change or after it. What it
        # cuts short after that is done by the second call, or else by the next one who asks.
        self._pending = events
        try:
            self._settle()
        finally:
            self._settle()

    def _settle(self) -> None:
        """Do what was committed. Each step may come twice. The lock is held."""
        pending = self._pending
        if not pending:
            return
        self._last = pending[-1].seq
        if not self._events or self._events[-1] is not pending[-1]:
            self._events.extend(pending)
        for event in pending:
            if event.environment is None or event.kind is EventKind.DELETED:
                self._environments.pop(event.environment_id, None)
            else:
                self._environments[event.environment_id] = event.environment
        while len(self._events) > self.HISTORY_LIMIT:
            self._events.popleft()
        self._changed.notify_all()
        self._pending = []

    def _check_range(self, after: int, until: int | None = None) -> None:
        check_range(after, until, oldest=self._oldest(), last=self._last)

    def _oldest(self) -> int:
        return self._events[0].seq if self._events else self._last + 1

    def _position(self, seq: int) -> int:
        """How many of the kept events are not after this one."""
        return bisect_right(self._events, seq, key=attrgetter("seq"))


def _event(
    seq: int, kind: EventKind, environment: Environment, before: Environment | None
) -> Event:
    """The event of a change by the calling thread that stored or deleted this version."""
    author = current_author()
    return Event(
        seq=seq,
        at=datetime.now(UTC),
        kind=kind,
        environment_id=environment.id,
        revision=environment.revision,
        status=None if kind is EventKind.DELETED else environment.status,
        previous_status=before.status if before else None,
        actor=author.actor,
        reason=author.reason,
        environment=environment,
    )
