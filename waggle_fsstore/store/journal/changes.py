# SPDX-License-Identifier: Apache-2.0
"""The changes in the journal, read in order: all, some, or those that no checkpoint covers."""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from waggle_fsstore.domain.errors import HistoryPrunedError
from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.journal import lines, segments
from waggle_fsstore.store.journal.state import is_another_store


class RedoRange(NamedTuple):
    """What a crash may have taken from the documents: the changes after ``through``.

    They begin at ``offset`` (bytes) of segment ``first``. ``is_whole`` if no checkpoint was
    ever made in this place: then it is all there is. ``is_of_a_copy`` if one was made in
    another folder.
    """

    through: int
    first: int
    offset: int
    is_whole: bool
    is_of_a_copy: bool = False


#: All there is.
FULL_LOG: Final = RedoRange(0, 0, 0, True)


def redo_range(layout: Layout, place: str) -> RedoRange:
    """What the last checkpoint left open; reads back no further than to that."""
    checkpoint = last_checkpoint(layout)
    if checkpoint is None:
        return FULL_LOG
    if checkpoint["place"] != place:
        return FULL_LOG._replace(is_of_a_copy=is_another_store(checkpoint["place"], place))
    return RedoRange(checkpoint["through"], checkpoint["segment"], checkpoint["offset"], False)


def last_checkpoint(layout: Layout) -> dict[str, Any] | None:
    """Return what the last checkpoint line holds, ``None`` without one. Reads back to that only."""
    successor = None
    for first in reversed(segments.list_segments(layout)):
        checkpoint = lines.last_checkpoint(segments.valid_prefix(layout, first, successor))
        if checkpoint is not None:
            return checkpoint
        successor = first
    return None


def redo_changes(
    layout: Layout, window: RedoRange, *, until: int | None = None, strict: bool = False
) -> Iterator[dict[str, Any]]:
    """The changes of a window, as :func:`changes` gives them."""
    return changes(
        layout,
        after=window.through,
        until=until,
        first=window.first,
        offset=window.offset,
        strict=strict,
    )


def changes(
    layout: Layout,
    *,
    after: int = 0,
    until: int | None = None,
    first: int = 0,
    offset: int = 0,
    stop: tuple[int, int] = (0, 0),
    about: str | None = None,
    strict: bool = False,
) -> Iterator[dict[str, Any]]:
    """The changes with ``after`` < seq <= ``until``, in order; ``about`` one id, or all.

    Reading begins at the segment that holds the first of them, or at ``offset`` (bytes) of
    segment ``first``; where it is known, ``stop`` is the segment and the offset at which the
    last of them ends, not 0. Damage is left out, or with ``strict`` raises
    :class:`JournalDamagedError` where reading comes to it, and :class:`HistoryPrunedError`
    where the next segment is gone meanwhile. One segment is in memory at a time. A change
    that comes twice is left out.
    """
    last = after
    has_begun = after > 0
    mention = b"" if about is None else lines.id_needle(about)
    names = segments.list_segments(layout)
    if first == 0:
        first = max((name for name in names if name <= after + 1), default=0)
    names = [name for name in names if name >= first]
    for name, successor in segments.with_successors(names):
        if until is not None and name > until:
            return
        start = offset if name == first else 0
        try:
            segment = segments.read_segment(
                layout,
                name,
                successor,
                start,
                stop=stop[1] if name == stop[0] and stop[1] else None,
                after=last,
                about=mention,
            )
        except FileNotFoundError:
            if strict and has_begun:
                raise HistoryPrunedError(
                    min(segments.list_segments(layout), default=last + 1)
                ) from None
            continue
        has_begun = has_begun or bool(segment.data)
        for line in segment.good:
            is_damaged = strict and bool(segment.bad) and segment.bad[0].start < line.start
            if until is not None and line.changes and line.changes[0]["seq"] > until:
                if is_damaged and last < until:
                    break  # What is missing may be among what was asked for.
                return  # What is being written just now may look like anything.
            if is_damaged:
                break
            for change in line.changes:
                if last < change["seq"] and (until is None or change["seq"] <= until):
                    last = change["seq"]
                    if about is None or change["id"] == about:
                        yield change
        if strict and (until is None or last < until):
            segment.raise_on_damage()


def last_of_each(found: Iterator[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The last change of each id."""
    return {change["id"]: change for change in found}
