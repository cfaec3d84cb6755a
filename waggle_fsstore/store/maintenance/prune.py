# SPDX-License-Identifier: Apache-2.0
"""Prune: remove or compress the oldest history, never what recovery needs."""

import math
import os
import zlib
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

from waggle_fsstore.domain.progress import tracked
from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.fs.disk import Disk
from waggle_fsstore.store.fs.safe_read import is_regular
from waggle_fsstore.store.journal import segments
from waggle_fsstore.store.journal.changes import redo_range
from waggle_fsstore.store.write.writer import Writer

_GZIP_WBITS: Final = 31  # zlib.compress: with a gzip header, which holds no time

_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Pruned:
    """The result of pruning whole segments; ``oldest`` is the first change kept."""

    segments_removed: int
    segments_compressed: int
    bytes_freed: int
    oldest: int


def prune(
    layout: Layout,
    disk: Disk,
    writer: Writer,
    *,
    keep_days: float | None,
    keep_bytes: int | None,
    compress: bool,
    keep_since: datetime | None,
) -> Pruned:
    """See :meth:`FileStore.prune_history`."""
    now = datetime.now(UTC)
    horizon = None if keep_days is None else _horizon(now, keep_days)
    if keep_bytes is not None and keep_bytes < 0:
        raise ValueError(f"keep_bytes: {keep_bytes} is negative")
    if keep_days is None and keep_bytes is None and not compress:
        raise ValueError("nothing to do: give keep_days, keep_bytes or compress")
    names = segments.list_segments(layout)
    if not names:
        return Pruned(0, 0, 0, 0)
    # The checkpoint goes into this segment, or a later one.
    live = names[-1]
    writer.recover()
    writer.checkpoint()
    removable = _removable(layout, live)
    removed: list[int] = []
    for first, _ in tracked(removable, "files"):
        made_by = _made_by(layout, first, now)
        is_old = horizon is not None and made_by < horizon
        # Summed up each time: another process may prune as well.
        is_too_much = keep_bytes is not None and segments.total_size(layout) > keep_bytes
        is_wanted = keep_since is not None and made_by >= keep_since
        if is_wanted or not (is_old or is_too_much):
            break
        freed = writer.exclusive(partial(_remove, layout, disk, first))
        removed += [] if freed is None else [freed]
    compressed: list[int] = []
    if compress:
        for first, successor in tracked(removable, "files to compress"):
            saved = _compress(layout, disk, writer, first, successor)
            compressed += [] if saved is None else [saved]
    oldest = min(segments.list_segments(layout), default=0)
    return Pruned(len(removed), len(compressed), sum(removed) + sum(compressed), oldest)


def _horizon(now: datetime, keep_days: float) -> datetime:
    """Return the time of the oldest change to keep."""
    if not 0 <= keep_days < math.inf:
        raise ValueError(f"keep_days: {keep_days!r} is not a number of days")
    try:
        return now - timedelta(days=keep_days)
    except OverflowError:
        return _LONG_AGO


def _removable(layout: Layout, live: int) -> list[tuple[int, int]]:
    """Return the segments that no recovery needs, oldest first, each with its successor.

    Recovery needs the last checkpoint, and the changes after it.
    """
    window = redo_range(layout)
    needed = 0 if window.is_full_log else min(live, window.start.segment)
    return [
        (first, successor)
        for first, successor in segments.with_successors(segments.list_segments(layout))
        if first < needed and successor is not None
    ]


def _made_by(layout: Layout, first: int, now: datetime) -> datetime:
    """Return a time by which all changes of a segment had been made.

    It is the latest time of a change in it: the clock may have gone back since. A time in the
    future is not believed, because one such line would keep all history behind it for ever:
    that change was made before those that follow it in the next segments.
    """
    latest = _LONG_AGO
    names = [name for name in segments.list_segments(layout) if name >= first]
    for name, successor in segments.with_successors(names):
        times = _times(layout, name, successor)
        believed = [time for time in times if time <= now]
        latest = max(latest, *believed, _LONG_AGO)
        if (believed and name > first) or len(believed) == len(times):
            return latest
    return now if names else _LONG_AGO


def _times(layout: Layout, first: int, successor: int | None) -> list[datetime]:
    """Return the times of the changes in a segment; none if another process has removed it."""
    try:
        good = segments.read_segment(layout, first, successor).good
    except FileNotFoundError:
        return []
    return [datetime.fromisoformat(change["at"]) for line in good for change in line.changes]


def _remove(layout: Layout, disk: Disk, first: int) -> int | None:
    """Remove a segment, in both forms if a compression was cut short.

    Returns how many bytes that frees, ``None`` where another process has removed it already.
    """
    size = segments.size_of(layout, first)
    if not size:
        return None
    for path in (segments.packed_path(layout, first), layout.segment(first)):
        with suppress(FileNotFoundError):
            disk.remove(path)
            # One by one: a crash leaves no hole in the journal.
            disk.sync_dir(layout.journal)
    return size


def _compress(layout: Layout, disk: Disk, writer: Writer, first: int, successor: int) -> int | None:
    """Compress a segment, and return how many bytes that frees.

    Returns ``None`` for a segment that is compressed or removed already, or damaged.
    """
    plain = layout.segment(first)
    try:
        if not is_regular(plain) or segments.read_segment(layout, first, successor).bad:
            return None
        with open(plain, "rb") as file:
            status = os.fstat(file.fileno())
            packed = zlib.compress(file.read(), wbits=_GZIP_WBITS)
    except FileNotFoundError:
        return None  # Another process prunes too.

    def exchange() -> int | None:
        if not is_regular(plain) or not os.path.samestat(os.lstat(plain), status):
            return None  # Repaired or pruned in the meantime.
        disk.write_atomic(segments.packed_path(layout, first), packed, layout.temporary)
        disk.sync_dir(layout.journal)
        disk.remove(plain)
        disk.sync_dir(layout.journal)
        return status.st_size - len(packed)

    return writer.exclusive(exchange)
