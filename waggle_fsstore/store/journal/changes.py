# SPDX-License-Identifier: Apache-2.0
"""The changes in the journal, in order: all, a range, or those that no checkpoint covers."""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from waggle_fsstore.domain.errors import HistoryPrunedError
from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.journal import lines, segments
from waggle_fsstore.store.journal.lines import Cursor, Line
from waggle_fsstore.store.journal.segments import Segment
from waggle_fsstore.store.journal.selection import Selection
from waggle_fsstore.store.journal.state import is_copy, is_valid


class RedoRange(NamedTuple):
    """The changes that recovery looks at: a crash may have lost their documents.

    They begin at ``start``. ``is_full_log`` if no checkpoint of this very store exists, so
    that they are the whole journal. ``is_copy`` if the last checkpoint is of the store that
    this one was copied from, or if a copy was put back here.
    """

    start: Cursor
    is_full_log: bool
    is_copy: bool = False


BEGINNING: Final = Cursor()
FULL_LOG: Final = RedoRange(BEGINNING, is_full_log=True)


def last_checkpoint(layout: Layout) -> dict[str, Any] | None:
    """Return the last checkpoint of the journal; reads no segment before the one it is in."""
    successor = None
    names = segments.list_segments(layout)
    for first in reversed(names):
        try:
            checkpoint = lines.last_checkpoint(segments.valid_prefix(layout, first, successor))
        except FileNotFoundError:
            if segments.list_segments(layout) == names:
                raise
            return last_checkpoint(layout)  # It was pruned: there are newer checkpoints now.
        if checkpoint is not None:
            return checkpoint
        successor = first
    return None


def redo_range(layout: Layout) -> RedoRange:
    """Return the changes after the last checkpoint, if that is of this very store."""
    checkpoint = last_checkpoint(layout)
    if checkpoint is None:
        return FULL_LOG
    if not is_valid(checkpoint, layout):
        return FULL_LOG._replace(is_copy=is_copy(checkpoint, layout))
    start = Cursor(checkpoint["through"], checkpoint["segment"], checkpoint["offset"])
    return RedoRange(start, is_full_log=False)


def changes(
    layout: Layout,
    start: Cursor = BEGINNING,
    end: Cursor | None = None,
    *,
    only: Selection | None = None,
    strict: bool = False,
) -> Iterator[dict[str, Any]]:
    """Yield the changes with ``start.seq`` < seq <= ``end.seq``, in order; ``only`` selected ones.

    Where the cursors have offsets, nothing before that of ``start`` or behind that of ``end``
    is read. A second copy of a change is left out. One segment is in memory at a time.

    Damaged lines are skipped. With ``strict``, they raise :class:`JournalDamagedError` where
    reading reaches them, and a segment that was removed after ``start``, or after reading
    began, raises :class:`HistoryPrunedError`.
    """
    return (change for change, _, _ in entries(layout, start, end, only=only, strict=strict))


def entries(
    layout: Layout,
    start: Cursor = BEGINNING,
    end: Cursor | None = None,
    *,
    only: Selection | None = None,
    strict: bool = False,
) -> Iterator[tuple[dict[str, Any], Segment, Line]]:
    """Yield what :func:`changes` yields, each with its segment and its line."""
    if end is not None and end.seq <= start.seq:
        return
    last = start.seq
    for segment in _segments(layout, start, end, only, strict=strict):
        for line in segment.undamaged() if strict else segment.good:
            if end is not None and line.changes and line.changes[0]["seq"] > end.seq:
                return  # Behind it may be a line that a writer is just adding.
            for change in line.changes:
                if last < change["seq"] and (end is None or change["seq"] <= end.seq):
                    last = change["seq"]
                    if only is None or only.matches(change):
                        yield change, segment, line
            if end is not None and last >= end.seq:
                return  # Damage after the last change is none of this caller's.


def last_of_each(changes: Iterator[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the last change of each id."""
    return {change["id"]: change for change in changes}


def _segments(
    layout: Layout, start: Cursor, end: Cursor | None, only: Selection | None, *, strict: bool
) -> Iterator[Segment]:
    """Yield the segments with changes between two cursors, read as far as they are needed."""
    names = segments.list_segments(layout)
    first = start.segment or max((name for name in names if name <= start.seq + 1), default=0)
    has_begun = start.seq > 0
    is_kept = start.segment in names or names[:1] <= [start.seq + 1]
    if strict and has_begun and not is_kept:
        raise HistoryPrunedError(names[0])
    for name, successor in segments.with_successors([name for name in names if name >= first]):
        if end is not None and name > end.seq:
            return
        try:
            segment = segments.read_segment(
                layout,
                name,
                successor,
                start.offset if name == start.segment else 0,
                stop=end.offset if end is not None and name == end.segment else 0,
                after=start.seq,
                only=only,
            )
        except FileNotFoundError:
            if strict and has_begun:
                oldest = min(segments.list_segments(layout), default=name)
                raise HistoryPrunedError(oldest) from None
            continue
        has_begun = has_begun or bool(segment.data)
        yield segment
