# SPDX-License-Identifier: Apache-2.0
"""Pruning: the oldest history removed or compressed, never what recovery needs."""

import math
import os
import zlib
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.fs.disk import Disk, temp_path
from waggle_fsstore.store.fs.lock import StoreLock
from waggle_fsstore.store.fs.safe_read import is_regular
from waggle_fsstore.store.journal import segments
from waggle_fsstore.store.journal.changes import redo_range
from waggle_fsstore.store.write.writer import Writer

_GZIP: Final = 31  # zlib.compress: with the header of gzip, and no time in it


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was pruned: whole segments of the journal. ``oldest`` is the first change kept."""

    segments_removed: int
    segments_compressed: int
    bytes_freed: int
    oldest: int


def prune(
    layout: Layout,
    disk: Disk,
    writer: Writer,
    timeout: float,
    *,
    keep_days: float | None,
    keep_bytes: int | None,
    compress: bool,
) -> Pruned:
    """See :meth:`FileStore.prune_history`."""
    horizon = _horizon(keep_days)
    if keep_bytes is not None and keep_bytes < 0:
        raise ValueError(f"keep_bytes: {keep_bytes} is negative")
    if keep_days is None and keep_bytes is None and not compress:
        raise ValueError("nothing to do: give keep_days, keep_bytes or compress")
    names = segments.list_segments(layout)
    if not names:
        return Pruned(0, 0, 0, 0)
    # The checkpoint goes into this segment, or a later one.
    live = names[-1]
    writer.recover(timeout=timeout)
    writer.checkpoint()
    free = _not_needed(layout, live)
    freed: list[int] = []
    total = sum(segments.size_of(layout, first) for first in segments.list_segments(layout))
    lock = StoreLock(layout.lock, timeout=timeout)
    try:
        for first, successor in free:
            is_old = horizon is not None and _newest(layout, first, successor) < horizon
            is_too_much = keep_bytes is not None and total - sum(freed) > keep_bytes
            if not is_old and not is_too_much:
                break
            lock.run(partial(_remove, layout, disk, first, freed))
        removed = len(freed)
        if compress:
            for first, successor in free[removed:]:
                _compress(layout, disk, lock, first, successor, freed)
    finally:
        lock.close()
    packed = len(freed) - removed
    return Pruned(removed, packed, sum(freed), min(segments.list_segments(layout), default=0))


def _horizon(keep_days: float | None) -> datetime | None:
    """What is older than this may go."""
    if keep_days is None:
        return None
    if not 0 <= keep_days < math.inf:
        raise ValueError(f"keep_days: {keep_days!r} is not a number of days")
    try:
        return datetime.now(UTC) - timedelta(days=keep_days)
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC)


def _not_needed(layout: Layout, live: int) -> list[tuple[int, int]]:
    """The segments that no recovery needs, oldest first, each with its successor.

    Needed is what follows the last checkpoint, and the checkpoint itself.
    """
    window = redo_range(layout)
    needed = 0 if window.is_full_log else min(live, window.start.segment)
    return [
        (first, successor)
        for first, successor in segments.with_successors(segments.list_segments(layout))
        if first < needed and successor is not None
    ]


def _newest(layout: Layout, first: int, successor: int) -> datetime:
    """When the last change in a segment was made; clocks may have gone back since."""
    times = (
        datetime.fromisoformat(change["at"])
        for line in segments.read_segment(layout, first, successor).good
        for change in line.changes
    )
    return max(times, default=datetime.min.replace(tzinfo=UTC))


def _remove(layout: Layout, disk: Disk, first: int, freed: list[int]) -> None:
    """Remove a segment, in both forms if a compression was cut short."""
    freed.append(segments.size_of(layout, first))  # Nothing, where somebody else prunes too.
    for path in (segments.packed_path(layout, first), layout.segment(first)):
        with suppress(FileNotFoundError):
            disk.remove(path)
            # One by one: what a crash leaves has no hole.
            disk.sync_dir(layout.journal)


def _compress(
    layout: Layout, disk: Disk, lock: StoreLock, first: int, successor: int, freed: list[int]
) -> None:
    """Compress a segment, unless it is so already, or has to be repaired."""
    plain = layout.segment(first)
    if not is_regular(plain) or segments.read_segment(layout, first, successor).bad:
        return
    with open(plain, "rb") as file:
        status = os.fstat(file.fileno())
        packed = zlib.compress(file.read(), wbits=_GZIP)

    def exchange() -> None:
        # Unless it was repaired meanwhile, or pruned.
        if is_regular(plain) and os.path.samestat(os.lstat(plain), status):
            _exchange(layout, disk, first, packed)
            freed.append(status.st_size - len(packed))

    lock.run(exchange)


def _exchange(layout: Layout, disk: Disk, first: int, packed: bytes) -> None:
    source = temp_path(layout.temporary)
    disk.write_temp(source, packed)
    try:
        disk.replace(source, segments.packed_path(layout, first))
    except OSError:
        disk.discard(source)
        raise
    disk.sync_dir(layout.journal)
    disk.remove(layout.segment(first))
    disk.sync_dir(layout.journal)
