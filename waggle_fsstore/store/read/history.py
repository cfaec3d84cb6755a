# SPDX-License-Identifier: Apache-2.0
"""History: the changes in the journal as events, past and future ones."""

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Final, NamedTuple

from waggle_fsstore.domain.clock import monotonic
from waggle_fsstore.domain.environment import Status
from waggle_fsstore.domain.errors import HistoryLostError, HistoryPrunedError
from waggle_fsstore.domain.event import (
    Event,
    EventKind,
    check_range,
    check_timeout,
    cursor_of,
    parse_after,
)
from waggle_fsstore.store.format import codec
from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.journal import segments
from waggle_fsstore.store.journal.changes import entries
from waggle_fsstore.store.journal.lines import NO_ERA, Cursor
from waggle_fsstore.store.journal.segments import Anchor
from waggle_fsstore.store.journal.selection import NOTHING, Selection
from waggle_fsstore.store.read.seen_store import SeenStore
from waggle_fsstore.store.read.view import View

# A waiting watch polls the state record, at first often and then less so.
_MIN_POLL_S: Final = 0.001
_MAX_POLL_S: Final = 0.05


class _Position(NamedTuple):
    """The last change that a caller has seen, and the era of the journal that it is in.

    Every change between two reads of the journal is possible: it may be pruned, an older
    state of it may be put back and grow again, another one may take its place. The era tells
    another journal, and the line of the change tells whether this one still has that change.
    ``is_beginning``: before all events that are kept, whichever these are.
    """

    anchor: Anchor
    era: str
    is_beginning: bool = False


class History:
    """The events of one store: only published changes, which no crash can undo."""

    def __init__(self, layout: Layout, view: View, seen_store: SeenStore) -> None:
        self._layout = layout
        self._seen_store = seen_store
        self._view = view
        # The last change that was read: a caller that follows the changes continues there.
        self._last_read = Anchor()

    def events(
        self, only: Selection | None, after: int | str, until: int | None
    ) -> Iterator[Event]:
        """See :meth:`TransactionalRepository.history`; ``only`` the selected ones."""
        state = self._view.state()
        start = self._start(after, until, state.published)
        if only is NOTHING:
            return iter(())
        end = state.published_cursor
        if until is not None and until < end.seq:
            end = end._replace(seq=until)
        return (event for event, _ in self._read(start, end, only))

    def watch(
        self, after: int | str | None, timeout: float | None, check: Callable[[], None]
    ) -> Iterator[Event]:
        """See :meth:`TransactionalRepository.watch`; ``check`` raises where waiting must end."""
        check_timeout(timeout)
        last = self._view.state().published
        next_event = self._follow(
            self._end(last) if after is None else self._start(after, None, last)
        )
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

    def _follow(self, position: _Position) -> Callable[[], Event | None]:
        """Return a function that returns the next event, or ``None`` while there is none.

        After it raised, its next call tries the same event again: none is skipped.
        """
        unread: Iterator[tuple[Event, _Position]] | None = None

        def next_event() -> Event | None:
            nonlocal position, unread
            try:
                found = None if unread is None else next(unread, None)
                if found is None:
                    unread = self._read(position, self._view.state().published_cursor, None)
                    found = next(unread, None)
            except BaseException:
                unread = None
                raise
            event, position = found or (None, position)
            return event

        return next_event

    def _end(self, last: int) -> _Position:
        """Return the position of the last change, or one before the first change."""
        return _Position(self._locate(last) or Anchor(last), segments.era(self._layout))

    def _start(self, after: int | str, until: int | None, last: int) -> _Position:
        """Return the position after a cursor or a number. Raises where there is none."""
        seq, token = parse_after(after)
        era = segments.era(self._layout)
        if token and not token.startswith(era or NO_ERA):
            raise HistoryLostError(seq)
        oldest = next(iter(segments.list_segments(self._layout)), last + 1)
        # A cursor beyond the last change may be one of an older state: the line decides.
        check_range(seq, until, oldest=oldest, last=max(last, seq) if token else last)
        anchor = self._locate(seq) if seq else None
        if token and (seq > last if anchor is None else not token.endswith(anchor.crc)):
            raise HistoryLostError(seq)
        anchor = Anchor(seq) if anchor is None else anchor._replace(seq=seq)
        return _Position(anchor, era, is_beginning=seq == 0)

    def _read(
        self, position: _Position, end: Cursor, only: Selection | None
    ) -> Iterator[tuple[Event, _Position]]:
        """Yield the events from a position to the end, each with its own position."""
        anchor, era, is_beginning = position
        if end.seq < anchor.seq:
            self._verify(position)
        if end.seq <= anchor.seq:
            self._find(anchor)  # Another history may end with this number too.
            return
        if anchor.seq:
            anchor = self._verify(position)
        else:  # A caller that has seen no change can have missed none in any journal.
            era = segments.era(self._layout)
        start = Cursor(anchor.seq, anchor.segment, anchor.offset)
        segment = None
        try:
            for change, current, line in entries(self._layout, start, end, only=only, strict=True):
                if segment is not current:
                    # After it was read: it continues what the caller has seen.
                    self._find(anchor)
                    known = anchor.seq or is_beginning
                    if not known and (oldest := segments.oldest_kept(self._layout)):
                        raise HistoryPrunedError(oldest)
                    segment = current
                anchor = self._last_read = segment.anchor(change["seq"], line)
                event = event_of(change, self._layout, cursor_of(anchor.seq, f"{era}{anchor.crc}"))
                yield event, _Position(anchor, era)
        except HistoryPrunedError:
            self._seen_store.check()
            raise
        self._verify(_Position(anchor, era))
        if anchor.seq < end.seq and self._view.state().published < end.seq:
            raise HistoryLostError(anchor.seq)

    def _verify(self, position: _Position) -> Anchor:
        """Return where the last change of a position is now, as far as it is kept.

        Raises :class:`HistoryLostError` if the journal does not continue that position, and
        :class:`StoreGoneError`.
        """
        self._seen_store.check()
        if segments.era(self._layout) != position.era:
            raise HistoryLostError(position.anchor.seq)
        return self._find(position.anchor)

    def _find(self, anchor: Anchor) -> Anchor:
        """Do as :meth:`_verify` within one era."""
        if segments.is_in_place(self._layout, anchor):
            return anchor
        found = segments.locate(self._layout, anchor.seq)
        if found is not None and found.crc != anchor.crc:
            raise HistoryLostError(anchor.seq)
        return (found or Anchor(crc=anchor.crc))._replace(seq=anchor.seq)

    def _locate(self, seq: int) -> Anchor | None:
        """Return the last change up to a number, at once where a caller follows the changes."""
        last = self._last_read
        if last.seq == seq and segments.is_in_place(self._layout, last):
            return last
        return segments.locate(self._layout, seq)


def event_of(change: dict[str, Any], layout: Layout, cursor: str) -> Event:
    """Return the event of a change in the journal."""
    kind = EventKind(change["kind"])
    document, before = change["document"], change["was"] or {}
    environment = (
        None if document is None else codec.environment_of(document, layout.document(change["id"]))
    )
    previous = before.get("status")
    return Event(
        seq=change["seq"],
        cursor=cursor,
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
