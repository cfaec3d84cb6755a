# SPDX-License-Identifier: Apache-2.0
"""The history in PostgreSQL: the table of changes as events, past and future ones."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Final, NamedTuple

from waggle_fsstore.domain.clock import monotonic
from waggle_fsstore.domain.environment import Status
from waggle_fsstore.domain.errors import (
    CorruptDocumentError,
    HistoryLostError,
    HistoryPrunedError,
    UnsupportedFormatError,
)
from waggle_fsstore.domain.event import (
    Event,
    EventFilter,
    EventKind,
    check_range,
    check_timeout,
    cursor_of,
    parse_after,
)
from waggle_fsstore.domain.validation import is_id
from waggle_fsstore.store.postgres.connections import Connections
from waggle_fsstore.store.postgres.schema import FORMAT
from waggle_fsstore.store.postgres.transaction import decode

#: How many rows are read at a time.
PAGE_ROWS: Final = 200
# A waiting watch asks for the last number, at first often and then less so. LISTEN would not
# come through a pooler that shares sessions.
_MIN_POLL_S: Final = 0.001
_MAX_POLL_S: Final = 0.05

_TOKEN: Final = "left(replace(op::text, '-', ''), 16)"  # noqa: S105  # SQL.

# One statement sees one state: the page, and whether it continues what the caller has seen.
_READ: Final = f"""
SELECT s.format, s.last, s.oldest,
    (SELECT {_TOKEN} FROM waggle.change WHERE seq = %s), c.*
FROM waggle.store s LEFT JOIN LATERAL (
    SELECT seq, {_TOKEN}, to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        kind, id, was_revision, was_status, actor, reason, document::text
    FROM waggle.change WHERE seq > %s AND seq <= %s AND <only> ORDER BY seq LIMIT {PAGE_ROWS}
) c ON true ORDER BY c.seq
"""  # noqa: S608  # Made of constants.
_STATE: Final = f"""
SELECT s.format, s.last, s.oldest,
    (SELECT {_TOKEN} FROM waggle.change WHERE seq = COALESCE(%s, s.last))
FROM waggle.store s
"""  # noqa: S608


class _Position(NamedTuple):
    """The last change that a caller has seen: its number, and the token of its transaction.

    The token tells whether a change with that number is still the same one, after a failover
    that lost changes or the restore of an older state. Before the first change it is "".
    """

    seq: int
    token: str


#: Conditions in SQL, each with the value of its only parameter.
_Conditions = list[tuple[str, Any]]


class _State(NamedTuple):
    last: int = 0
    oldest: int = 1
    token: str | None = None


class History:
    """The events of one store."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def events(
        self, environment_id: str | None, after: int | str, until: int | None
    ) -> Iterator[Event]:
        """See :meth:`TransactionalRepository.history`."""
        position, last = self._start(after, until)
        if environment_id is not None and not is_id(environment_id):
            return iter(())
        end = last if until is None else min(until, last)
        selected = [] if environment_id is None else [("id = %s", environment_id)]
        return self._pages(position, end, selected)

    def select(self, wanted: EventFilter, after: int | str, until: int | None) -> Iterator[Event]:
        """Return the events that pass a filter, without fetching most of the others."""
        position, last = self._start(after, until)
        end = last if until is None else min(until, last)
        return filter(wanted.matches, self._pages(position, end, _conditions(wanted)))

    def watch(
        self, after: int | str | None, timeout: float | None, check: Callable[[], None]
    ) -> Iterator[Event]:
        """See :meth:`TransactionalRepository.watch`; ``check`` raises where waiting must end."""
        check_timeout(timeout)
        if after is None:
            state = self._state(None)
            position = _Position(state.last, state.token or "")
        else:
            position, _ = self._start(after, None)
        unread: deque[Event] = deque()

        def wait() -> Event | None:
            nonlocal position
            started = monotonic()
            pause = _MIN_POLL_S
            while True:
                check()
                if not unread:
                    unread.extend(self._page(position, None, []))
                if unread:
                    event = unread.popleft()
                    position = _position(event)
                    return event
                waited = monotonic() - started
                if timeout is not None and waited >= timeout:
                    return None
                threading.Event().wait(pause if timeout is None else min(pause, timeout - waited))
                pause = min(pause * 2, _MAX_POLL_S)

        # Not a generator: an exception would end it.
        return iter(wait, None)

    def _start(self, after: int | str, until: int | None) -> tuple[_Position, int]:
        """Return the position after a cursor or a number, and the number of the last change."""
        seq, token = parse_after(after)
        # A number beyond those of the database is beyond the last change too.
        state = self._state(min(max(seq, 0), 2**62))
        last = max(state.last, seq) if token else state.last
        check_range(seq, until, oldest=state.oldest, last=last)
        if seq == 0:
            return _Position(0, ""), state.last
        if state.token is None and seq == state.oldest - 1:  # Pruned, and nothing after it.
            return _Position(seq, ""), state.last
        if state.token is None and 0 < seq < state.oldest:
            raise HistoryPrunedError(state.oldest)
        if state.token is None or (token and token != state.token):
            raise HistoryLostError(seq)
        return _Position(seq, state.token), state.last

    def _pages(self, position: _Position, end: int, only: _Conditions) -> Iterator[Event]:
        while position.seq < end:
            page = self._page(position, end, only)
            for event in page:
                yield event
                position = _position(event)
            if len(page) < PAGE_ROWS:
                return

    def _page(self, position: _Position, end: int | None, only: _Conditions) -> list[Event]:
        """Return the next events. Raises where they would not continue a position."""
        selection = " AND ".join(["true", *(condition for condition, _ in only)])
        last = 2**62 if end is None else end
        parameters = (position.seq, position.seq, last, *(value for _, value in only))
        rows = self._connections.read(_READ.replace("<only>", selection), parameters)
        state = _state_of(rows)
        if position.seq > state.last or state.last < (end or 0):
            raise HistoryLostError(position.seq)
        if position.seq and position.seq < state.oldest - 1:
            raise HistoryPrunedError(state.oldest)
        is_kept = position.seq >= state.oldest
        if position.token and is_kept and state.token != position.token:
            raise HistoryLostError(position.seq)
        return [_event(*row[4:]) for row in rows if row[4] is not None]

    def _state(self, seq: int | None) -> _State:
        """Return the numbers of the history, and the token of a change, by default the last."""
        return _state_of(self._connections.read(_STATE, (seq,)))


def _conditions(wanted: EventFilter) -> _Conditions:
    """Return conditions that each event that passes a filter meets, and few others do.

    The database folds no case as Python does. So it compares ASCII only, and other actors pass.
    """
    found: _Conditions = []
    if wanted.environments:
        found.append(("id = ANY(%s)", list(filter(is_id, wanted.environments))))
    if wanted.kinds:
        found.append(("kind = ANY(%s)", [kind.value for kind in wanted.kinds]))
    if wanted.since is not None:
        found.append(("at >= %s", wanted.since))
    if wanted.until is not None:
        found.append(("at <= %s", wanted.until))
    if wanted.actor:
        part = wanted.actor.casefold().replace("\0", "")
        is_other = "octet_length(actor) > char_length(actor)"
        found.append((f'({is_other} OR strpos(lower(actor COLLATE "C"), %s) > 0)', part))
    return found


def _state_of(rows: list[tuple[Any, ...]]) -> _State:
    if not rows:
        return _State()
    found, last, oldest, token = rows[0][:4]
    if found > FORMAT:
        raise UnsupportedFormatError("waggle.store", found, FORMAT)
    return _State(last, oldest, token)


def _position(event: Event) -> _Position:
    return _Position(*parse_after(event.cursor))


def _event(
    seq: int,
    token: str,
    at: str,
    kind: str,
    environment_id: str,
    was_revision: int,
    was_status: str | None,
    actor: str,
    reason: str,
    document: str,
) -> Event:
    """Return the event of a row."""
    is_deleted = kind == EventKind.DELETED
    try:
        environment = decode(document, environment_id)
    except CorruptDocumentError:
        if not is_deleted:
            raise
        environment = None
    return Event(
        seq=seq,
        cursor=cursor_of(seq, token),
        at=datetime.fromisoformat(at),
        kind=EventKind(kind),
        environment_id=environment_id,
        revision=was_revision if is_deleted else seq,
        status=None if is_deleted or environment is None else environment.status,
        previous_status=Status(was_status) if was_status in _STATUSES else None,
        actor=actor,
        reason=reason,
        environment=environment,
    )


_STATUSES: Final = frozenset(status.value for status in Status)
