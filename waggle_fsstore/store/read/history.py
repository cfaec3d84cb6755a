# SPDX-License-Identifier: Apache-2.0
"""History: the changes in the journal as events, past and future ones."""

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Final

from waggle_fsstore.domain.clock import monotonic
from waggle_fsstore.domain.environment import Status
from waggle_fsstore.domain.event import Event, EventKind, check_range, check_timeout
from waggle_fsstore.domain.validation import is_id
from waggle_fsstore.store.format import codec
from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.journal import segments
from waggle_fsstore.store.journal.changes import changes
from waggle_fsstore.store.journal.lines import Cursor
from waggle_fsstore.store.journal.state import State
from waggle_fsstore.store.read.view import View

# A waiting watch polls the state record, at first often and then less so.
_MIN_POLL_S: Final = 0.001
_MAX_POLL_S: Final = 0.05


class History:
    """The events of one store: only published changes, which no crash can undo."""

    def __init__(self, layout: Layout, view: View) -> None:
        self._layout = layout
        self._view = view
        # The state at the last call: a caller that follows the changes continues from there.
        self._last_state: State | None = None

    def events(self, environment_id: str | None, after: int, until: int | None) -> Iterator[Event]:
        """See :meth:`TransactionalRepository.history`."""
        before, state = self._last_state, self._view.state()
        self._last_state = state
        last = state.published
        self._check(after, until, last)
        if environment_id is not None and not is_id(environment_id):
            return iter(())
        start = Cursor(after)
        if before and before.mounted_id == state.mounted_id and 0 < before.published <= after:
            start = before.published_cursor._replace(seq=after)
        end = state.published_cursor
        if until is not None and until < last:
            end = end._replace(seq=until)
        found = changes(self._layout, start, end, only=environment_id, strict=True)
        return (event_of(change, self._layout) for change in found)

    def watch(
        self, after: int | None, timeout: float | None, check: Callable[[], None]
    ) -> Iterator[Event]:
        """See :meth:`TransactionalRepository.watch`; ``check`` raises where waiting must end."""
        check_timeout(timeout)
        state = self._view.state()
        seq = state.published if after is None else after
        self._check(seq, None, state.published)
        next_event = self._follow(Cursor(seq))
        has_failed = False

        def wait() -> Event | None:
            nonlocal has_failed
            started = monotonic()
            pause = _MIN_POLL_S
            if has_failed:  # A caller that ignores errors must not read without a pause.
                time.sleep(_MAX_POLL_S)
            while True:
                check()
                has_failed = True
                event = next_event()
                has_failed = False
                waited = monotonic() - started
                if event is not None or (timeout is not None and waited >= timeout):
                    return event
                time.sleep(pause if timeout is None else min(pause, timeout - waited))
                pause = min(pause * 2, _MAX_POLL_S)

        # Not a generator: an exception would end it.
        return iter(wait, None)

    def _follow(self, cursor: Cursor) -> Callable[[], Event | None]:
        """Return a function that returns the next event, or ``None`` while there is none.

        After it raised, its next call tries the same event again: none is skipped.
        """
        unread: Iterator[dict[str, Any]] | None = None
        end = cursor

        def next_event() -> Event | None:
            nonlocal cursor, unread, end
            try:
                while True:
                    if unread is None:
                        end = self._view.state().published_cursor
                        if end.seq <= cursor.seq:
                            return None
                        self._check(cursor.seq, None, end.seq)
                        unread = changes(self._layout, cursor, end, strict=True)
                    change = next(unread, None)
                    if change is not None:
                        event = event_of(change, self._layout)
                        cursor = cursor._replace(seq=event.seq)
                        return event
                    cursor, unread = end, None
            except BaseException:
                unread = None
                raise

        return next_event

    def _check(self, after: int, until: int | None, last: int) -> None:
        oldest = next(iter(segments.list_segments(self._layout)), last + 1)
        check_range(after, until, oldest=oldest, last=last)


def event_of(change: dict[str, Any], layout: Layout) -> Event:
    """Return the event of a change in the journal."""
    kind = EventKind(change["kind"])
    document, before = change["document"], change["was"] or {}
    environment = (
        None if document is None else codec.environment_of(document, layout.document(change["id"]))
    )
    previous = before.get("status")
    return Event(
        seq=change["seq"],
        at=datetime.fromisoformat(change["at"]),
        kind=kind,
        environment_id=change["id"],
        revision=before.get("revision", 0) if kind is EventKind.DELETED else change["seq"],
        status=None if kind is EventKind.DELETED or not environment else environment.status,
        previous_status=Status(previous) if previous else None,
        actor=change["actor"],
        reason=change["reason"],
        environment=environment,
    )
