# SPDX-License-Identifier: Apache-2.0
"""Damage of the journal: finding bad lines, and blanking them out to keep the good ones."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from waggle_fsstore.domain.errors import CorruptDocumentError
from waggle_fsstore.domain.finding import Finding, Severity
from waggle_fsstore.domain.progress import tracked
from waggle_fsstore.store.format.layout import COMPRESSED_SUFFIX, SEGMENT_SUFFIX, Layout
from waggle_fsstore.store.fs import lost_and_found
from waggle_fsstore.store.fs.disk import Disk
from waggle_fsstore.store.fs.lock import is_held
from waggle_fsstore.store.fs.safe_read import refuse_irregular
from waggle_fsstore.store.journal import lines, segments
from waggle_fsstore.store.journal.lines import BadLine
from waggle_fsstore.store.journal.segments import Segment
from waggle_fsstore.store.journal.state import State, read_state, trusted_state

_REPAIR: Final = "'waggle-fsstore fsck --repair' blanks it out and keeps a copy"
_NEWLINE: Final = ord("\n")

# A longer run of blanks than documents have: a bad line with one was copied while in use.
_BLANK_RUN: Final = 512 * lines.BLANK


class Damage(NamedTuple):
    """One thing that is wrong in the journal; ``first`` names the segment if it is repairable."""

    finding: Finding
    first: int | None = None


def find_damage(layout: Layout) -> Iterator[Damage]:
    """Yield all that is wrong in the journal. Changes nothing, and takes no lock."""
    state = trusted_state(layout)
    names = segments.list_segments(layout)
    while state is not None and state.segment not in names:
        before, state = state, trusted_state(layout)
        if state == before:
            break
        names = segments.list_segments(layout)  # It was rotated and pruned in between.
    if state is not None and state.segment not in names:
        path = Path(layout.segment(state.segment))
        remedy = "restore it; otherwise the next change begins a new segment without it"
        yield Damage(Finding(Severity.ERROR, path, "is missing, with the last changes", remedy))
    previous = None
    pairs = list(segments.with_successors(names))
    for first, successor in tracked(pairs, "files of the journal"):
        yield from _segment_damage(layout, first, previous, successor, state)
        previous = first


def repair(layout: Layout, disk: Disk, first: int) -> str:
    """Blank out the bad lines of a segment; return the path of the damaged one in lost+found.

    The good lines keep their offsets, which other processes remember. Returns an empty string
    if no line is bad. The caller holds the store lock.
    """
    names = segments.list_segments(layout)
    segment = _read(layout, first, _successor_of(first, names)) if first in names else None
    if segment is None or not segment.bad:
        return ""
    plain = layout.segment(first)
    is_packed = segment.path != plain
    stem = f"{first:016d}"
    if not is_packed:
        data = segments.load(layout, first)
        kept = lost_and_found.save_copy(layout, disk, stem, SEGMENT_SUFFIX, 1, data)
    disk.make_dir(layout.temporary)
    disk.write_atomic(plain, _blanked(layout, segment, names), layout.temporary)
    disk.sync_dir(layout.journal)
    if is_packed:
        kept = lost_and_found.move_in(layout, disk, segment.path, stem, COMPRESSED_SUFFIX, 1)
    return kept


def repair_copy(layout: Layout, disk: Disk, first: int) -> list[Finding]:
    """Blank out the lines of the live segment that were written while ``cp`` copied it.

    ``cp`` reads in chunks: it can read blanks where a line begins, and continue after that
    line and the next ones were written. Any other damage is left, and then all of it. The caller
    holds the store lock.
    """
    segment = _read(layout, first, None)
    torn = [bad for bad in segment.bad if bad.start < segment.end] if segment else []
    if segment is None or not torn or not all(_was_blank(segment.data, bad) for bad in torn):
        return []
    kept = repair(layout, disk, first)
    problem = "has partly blank lines, as after a copy of a store in use: their changes are lost"
    remedy = f"the complete lines are kept; the original file is {kept}"
    return [Finding(Severity.WARNING, Path(segment.path), problem, remedy, True)]


def _was_blank(data: bytes, bad: BadLine) -> bool:
    """Return whether part of a bad line was not written yet. No line begins with a blank."""
    return data.startswith(lines.BLANK, bad.start) or _BLANK_RUN in data[bad.start : bad.end]


def _segment_damage(
    layout: Layout, first: int, previous: int | None, successor: int | None, state: State | None
) -> Iterator[Damage]:
    path = segments.path_of(layout, first)
    try:
        refuse_irregular(path)
        segment = segments.read_segment(layout, first, successor)
        yield from _order_damage(layout, segment, previous)
    except FileNotFoundError:
        return  # Pruned in the meantime.
    except (CorruptDocumentError, OSError) as error:
        reason = error.strerror or error if isinstance(error, OSError) else error.reason
        problem = f"cannot be read: {reason}"
        remedy = "make it readable or move it away"
        yield Damage(Finding(Severity.ERROR, Path(path), problem, remedy))
        return
    if segment.bad and successor is None and _is_being_written(layout, segment):
        return
    published = state.offset if state is not None and state.segment == first else 0
    for bad in segment.bad:
        yield Damage(_finding(segment, bad, published), first)


def _is_being_written(layout: Layout, segment: Segment) -> bool:
    """Return whether bad lines of the live segment may be lines that a writer is just adding."""
    if is_held(layout.lock):
        return True
    successor = _successor_of(segment.first, segments.list_segments(layout))
    again = _read(layout, segment.first, successor)
    return again is None or again.bad != segment.bad


def _finding(segment: Segment, bad: BadLine, published: int) -> Finding:
    path = Path(segment.path)
    if bad.start >= len(segment.data):
        problem = f"ends {bad.end - bad.start} bytes too early: changes are lost"
        return Finding(Severity.ERROR, path, problem, _REPAIR)
    number = segment.data.count(b"\n", 0, bad.start) + 1
    if segment.is_sealed or bad.start < max(segment.end, published):
        return Finding(Severity.ERROR, path, f"line {number} is damaged", _REPAIR)
    problem = f"line {number}, the last, is incomplete: it was never confirmed and is ignored"
    return Finding(Severity.WARNING, path, problem, _REPAIR)


def _order_damage(layout: Layout, segment: Segment, previous: int | None) -> Iterator[Damage]:
    """Yield what is wrong if a segment does not follow the previous one."""
    if previous is None:
        return  # The segment before it was pruned, or never existed.
    followed, _ = segments.header(layout, segment.first)
    if followed == previous or not segment.data:  # An empty segment has no header.
        return
    path = Path(segment.path)
    if followed == 0:
        problem = "does not say which segment it follows"
        yield Damage(Finding(Severity.WARNING, path, problem, "no action is needed"))
    elif followed in segments.list_segments(layout):
        other = Path(layout.segment(previous)).name
        problem = f"does not follow {other}, which is between it and the segment that it follows"
        remedy = f"move {other} away if it does not belong to this store"
        yield Damage(Finding(Severity.WARNING, path, problem, remedy))
    else:
        missing = Path(layout.segment(followed))
        problem = f"is missing, and {path.name} follows it: changes are lost from the history"
        yield Damage(Finding(Severity.ERROR, missing, problem, "restore it from a backup"))


def _blanked(layout: Layout, segment: Segment, names: list[int]) -> bytes:
    """Return a segment with its bad lines blank, as long as its successor says it is."""
    whole = segments.load(layout, segment.first)
    data = bytearray(whole.ljust(segment.bad[-1].end, lines.BLANK))
    starts = {line.start for line in segment.good}
    state = read_state(layout.state)
    if state is not None and state.segment == segment.first:
        starts.add(state.offset)
    for start, end in segment.bad:
        # The newline before the start of a good line, and before the next one to be written, stays.
        ends = {end} if data[end - 1] == _NEWLINE else set()
        ends |= {good for good in starts if start < good <= end}
        data[start:end] = lines.BLANK * (end - start)
        for line_end in ends:
            data[line_end - 1] = _NEWLINE
    good = segment.good[0].start if segment.good else len(data)
    room = max((bad.end for bad in segment.bad if bad.end <= good), default=0)
    header = _header(layout, segment.first, names)
    if segment.bad[0].start == 0 and header and len(header) <= room:
        data[: len(header)] = header
    return bytes(data)


def _header(layout: Layout, first: int, names: list[int]) -> bytes:
    """Return the first line of a segment as the one before it shows; empty if that is pruned."""
    previous = max((name for name in names if name < first), default=0)
    if previous == 0 and first > 1:
        return b""
    if previous == 0:
        return lines.follows(0, 0)
    valid_bytes = segments.read_segment(layout, previous, first).end
    return lines.follows(previous, valid_bytes, segments.era_of(layout, previous))


def _read(layout: Layout, first: int, successor: int | None) -> Segment | None:
    try:
        return segments.read_segment(layout, first, successor)
    except FileNotFoundError:
        return None


def _successor_of(first: int, names: list[int]) -> int | None:
    return min((name for name in names if name > first), default=None)
