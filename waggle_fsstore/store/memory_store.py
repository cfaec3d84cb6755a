# SPDX-License-Identifier: Apache-2.0
"""MemoryStore: environments in a dict. The reference model that every store is tested against."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import ClassVar, NoReturn, Self, TypeVar

from waggle_fsstore.domain.at_fork import register_at_fork
from waggle_fsstore.domain.audit import current_author
from waggle_fsstore.domain.cleanup import run_with_cleanup
from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.errors import (
    CapacityError,
    ConflictError,
    EnvironmentAlreadyExistsError,
    EnvironmentNotFoundError,
    HistoryLostError,
    HistoryPrunedError,
    StoreClosedError,
)
from waggle_fsstore.domain.event import (
    Event,
    EventKind,
    check_range,
    check_timeout,
    cursor_of,
    parse_after,
)
from waggle_fsstore.domain.repository import OnCorrupt
from waggle_fsstore.store.format import codec
from waggle_fsstore.store.write import inputs

_T = TypeVar("_T")


class MemoryStore:
    """Environments in memory, for tests and as a fallback; they are gone with the process.

    The contract is :class:`~waggle_fsstore.TransactionalRepository`. It rejects the same
    environments as a FileStore. It keeps the last 100,000 events.
    """

    HISTORY_LIMIT: ClassVar[int] = 100_000

    def __init__(self) -> None:
        # Reentrant, because a function passed to update() may read.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._environments: dict[str, Environment] = {}
        #: The last events, oldest first, one for each number. A change happens when it is added.
        self._events: deque[Event] = deque()
        #: Tells its cursors from those of every other store.
        self._token = _new_token()
        #: The number of the last event that is applied to the environments.
        self._applied = 0
        self._is_changing = False
        self._closed = False
        register_at_fork(self)

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied, with a sentence."""
        raise TypeError(
            "a MemoryStore cannot be pickled or copied, because it exists in one process only: "
            "use a FileStore"
        )

    def find_by_id(self, environment_id: str) -> Environment:
        """See :meth:`TransactionalRepository.find_by_id`."""
        with self._lock:
            return self._find(environment_id).copy()

    def find_all(self, *, on_corrupt: OnCorrupt | None = None) -> list[Environment]:  # noqa: ARG002
        """See :meth:`TransactionalRepository.find_all`."""
        with self._lock:
            self._check_open()
            return [found.copy() for _, found in sorted(self._environments.items())]

    def iter_all(self, *, on_corrupt: OnCorrupt | None = None) -> Iterator[Environment]:  # noqa: ARG002
        """See :meth:`TransactionalRepository.iter_all`. Each one is copied at its turn."""
        with self._lock:
            self._check_open()
            ids = list(self._environments)

        def find(environment_id: str) -> Environment | None:
            try:
                return self.find_by_id(environment_id)
            except EnvironmentNotFoundError:
                return None

        return filter(None, map(find, ids))

    def count(self) -> int:
        """See :meth:`TransactionalRepository.count`."""
        with self._lock:
            self._check_open()
            return len(self._environments)

    def save(self, environment: Environment, *, if_revision: int | None = None) -> int:
        """See :meth:`TransactionalRepository.save`."""
        environment = inputs.checked_copy(environment)

        def work() -> int:
            stored = self._environments.get(environment.id)
            actual = stored.revision if stored else 0
            if if_revision is not None and if_revision != actual:
                raise ConflictError(environment.id, if_revision, actual)
            return self._store([environment])[0]

        return self._change(work)

    def create(self, environment: Environment, *, capacity: int | None = None) -> int:
        """See :meth:`TransactionalRepository.create`."""
        environment = inputs.checked_copy(environment)

        def work() -> int:
            if environment.id in self._environments:
                raise EnvironmentAlreadyExistsError(environment.id)
            if environment.idempotency is not None:
                for other in self._environments.values():
                    if other.has_key_of(environment):
                        raise EnvironmentAlreadyExistsError(other.id)
            self._check_capacity(capacity)
            return self._store([environment])[0]

        return self._change(work)

    def update(
        self,
        environment_id: str,
        change: Callable[[Environment], object],
        *,
        capacity: int | None = None,
    ) -> Environment:
        """See :meth:`TransactionalRepository.update`."""
        inputs.refuse_inside(id(self))

        def replace_same(found: Environment, changed: Environment) -> Environment | None:
            is_same = self._find(environment_id).revision == found.revision
            return self._replace(changed, capacity) if is_same else None

        def work() -> Environment:
            changed = inputs.apply(id(self), change, self._find(environment_id))
            return self._replace(changed, capacity)

        for _ in range(inputs.OPTIMISTIC_TRIES):
            found = self.find_by_id(environment_id)
            changed = inputs.apply(id(self), change, found)
            stored = self._change(partial(replace_same, found, changed))
            if stored is not None:
                return stored
        return self._change(work)

    def _replace(self, changed: Environment, capacity: int | None) -> Environment:
        """Store a new version within the capacity. The lock is held."""
        is_live = self._find(changed.id).status.is_live
        if changed.status.is_live and not is_live:
            self._check_capacity(capacity)
        self._store([changed])
        return changed.copy()

    def save_all(self, environments: Iterable[Environment]) -> list[int]:
        """See :meth:`TransactionalRepository.save_all`."""
        batch = inputs.checked_copies(environments)
        return self._change(lambda: self._store(batch))

    def delete(self, environment_id: str) -> None:
        """See :meth:`TransactionalRepository.delete`."""

        def work() -> None:
            removed = self._find(environment_id)
            self._commit([_event(self._last_seq + 1, EventKind.DELETED, removed, removed)])

        self._change(work)

    def history(
        self, environment_id: str | None = None, *, after: int | str = 0, until: int | None = None
    ) -> Iterator[Event]:
        """See :meth:`TransactionalRepository.history`."""
        with self._lock:
            self._check_open()
            after = self._after(after, until)
            end = len(self._events) if until is None else self._position(until)
            events = list(islice(self._events, self._position(after), end))
        found = (event for event in events if environment_id in (None, event.environment_id))
        return map(self._copy, found)

    def watch(
        self, *, after: int | str | None = None, timeout: float | None = None
    ) -> Iterator[Event]:
        """See :meth:`TransactionalRepository.watch`."""
        check_timeout(timeout)
        with self._lock:
            self._check_open()
            cursor = self._after(self._last_seq if after is None else after, None)
            cursor = max(cursor, self._first_seq - 1)

        def following() -> Event | None:
            self._check_open()
            if cursor < self._first_seq - 1:
                raise HistoryPrunedError(self._first_seq)
            position = self._position(cursor)
            return self._events[position] if position < len(self._events) else None

        def wait() -> Event | None:
            nonlocal cursor
            # Waiting releases the lock, which update() may hold while it runs a function.
            inputs.refuse_inside(id(self))
            with self._lock:
                event = self._changed.wait_for(following, timeout)
                if event is not None:
                    cursor = event.seq
            return event and self._copy(event)

        # Not a generator: an interrupt would end it, and the remaining events would be lost.
        return iter(wait, None)

    def close(self) -> None:
        """See :meth:`TransactionalRepository.close`. The environments are gone."""
        inputs.refuse_inside(id(self))
        with self._lock:
            self._closed = True
            self._changed.notify_all()
            self._environments.clear()
            self._events.clear()

    def __enter__(self) -> Self:
        with self._lock:
            self._check_open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def reset_after_fork(self) -> None:
        """Replace the lock in a child: another thread of the parent may have held it.

        From now on the two stores differ, so their cursors do too.
        """
        self._token = _new_token()
        self._is_changing = False
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosedError
        self._apply()

    def _change(self, work: Callable[[], _T]) -> _T:
        """Return ``work()``, which no signal handler of the same thread divides by a change."""

        def undivided() -> _T:
            self._is_changing = True
            return work()

        with self._lock:
            inputs.refuse_inside(id(self))
            self._check_open()
            if self._is_changing:
                raise RuntimeError("this thread is in the middle of a change of the same store")
            return run_with_cleanup(undivided, self._end_change)

    def _end_change(self) -> None:
        self._is_changing = False

    def _find(self, environment_id: str) -> Environment:
        self._check_open()
        try:
            return self._environments[environment_id]
        except (KeyError, TypeError):
            raise EnvironmentNotFoundError(environment_id) from None

    def _check_capacity(self, capacity: int | None) -> None:
        live = sum(other.status.is_live for other in self._environments.values())
        if capacity is not None and live >= capacity:
            raise CapacityError(capacity)

    def _store(self, environments: list[Environment]) -> list[int]:
        """Keep these copies, all or none, and give them their revisions. The lock is held."""
        events = []
        for revision, environment in enumerate(environments, self._last_seq + 1):
            codec.encode(environment, revision)  # Rejects what does not fit into a document.
            environment.revision = revision
            before = self._environments.get(environment.id)
            kind = EventKind.UPDATED if before else EventKind.CREATED
            events.append(_event(revision, kind, environment, before))
        if events:
            self._commit(events)
        return [event.seq for event in events]

    def _commit(self, events: list[Event]) -> None:
        """Make these changes, all or none, even if Ctrl-C comes. The lock is held."""
        # Added in one step, which no Ctrl-C divides. If one cuts short what follows, or a fork
        # copies the store before it, the next call of any method completes it.
        run_with_cleanup(lambda: self._events.extend(events), self._apply)

    def _apply(self) -> None:
        """Bring the environments up to the events. It can be repeated. The lock is held."""
        if self._applied == self._last_seq:
            return
        for event in islice(self._events, self._position(self._applied), None):
            if event.kind is EventKind.DELETED:
                self._environments.pop(event.environment_id, None)
            elif event.environment is not None:
                self._environments[event.environment_id] = event.environment
        self._changed.notify_all()
        self._applied = self._last_seq
        while len(self._events) > self.HISTORY_LIMIT:
            self._events.popleft()

    def _copy(self, event: Event) -> Event:
        """Return an independent copy of an event, with its cursor."""
        return replace(event.copy(), cursor=cursor_of(event.seq, self._token))

    def _after(self, after: int | str, until: int | None) -> int:
        """Return the number in a cursor of this store, or a number that it has. Lock held."""
        seq, token = parse_after(after)
        if token and (token != self._token or seq > self._last_seq):
            raise HistoryLostError(seq)
        check_range(seq, until, oldest=self._first_seq, last=self._last_seq)
        return seq

    @property
    def _first_seq(self) -> int:
        """The number of the oldest event that is kept."""
        return self._events[0].seq if self._events else self._applied + 1

    @property
    def _last_seq(self) -> int:
        """The number of the last change."""
        return self._events[-1].seq if self._events else self._applied

    def _position(self, seq: int) -> int:
        """Return how many of the kept events come up to and including this number."""
        return min(max(seq + 1 - self._first_seq, 0), len(self._events))


def _new_token() -> str:
    return os.urandom(8).hex()


def _event(seq: int, kind: EventKind, version: Environment, before: Environment | None) -> Event:
    """Return the event of a change by the calling thread, which stored or deleted a version."""
    author = current_author()
    return Event(
        seq=seq,
        at=datetime.now(UTC),
        kind=kind,
        environment_id=version.id,
        revision=version.revision,
        status=None if kind is EventKind.DELETED else version.status,
        previous_status=before.status if before else None,
        actor=author.actor,
        reason=author.reason,
        environment=version,
    )
