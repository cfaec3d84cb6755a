# SPDX-License-Identifier: Apache-2.0
"""Damage of the journal: what is bad in it, and how its good lines are made to count again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from waggle_fsstore.domain.finding import Finding, Severity
from waggle_fsstore.store.format.layout import COMPRESSED_SUFFIX, SEGMENT_SUFFIX, Layout
from waggle_fsstore.store.fs import lost_and_found
from waggle_fsstore.store.fs.disk import Disk, temp_path
from waggle_fsstore.store.fs.lock import is_held
from waggle_fsstore.store.fs.safe_read import is_regular
from waggle_fsstore.store.journal import lines, segments
from waggle_fsstore.store.journal.latest import trusted_state
from waggle_fsstore.store.journal.lines import BadLine
from waggle_fsstore.store.journal.segments import Segment
from waggle_fsstore.store.journal.state import State, read_state

_MEND: Final = "'waggle-fsstore fsck --repair' blanks it out and keeps a copy"
_NEWLINE: Final = ord("\n")
_NOTHING: Final = "nothing is to be done"

# More blanks in a row than a damaged line is likely to have.
_ROOM: Final = 512 * lines.BLANK


class Damage(NamedTuple):
    """What is bad in the journal; ``first`` names the segment if it can be mended."""

    finding: Finding
    first: int | None = None


def examine(layout: Layout) -> Iterator[Damage]:
    """All that is bad in the journal. Changes nothing, and takes no lock."""
    state = trusted_state(layout)
    names = segments.list_segments(layout)
    if state is not None and state.segment not in names:
        path = Path(layout.segment(state.segment))
        remedy = "put it back; else the next change goes on without it"
        yield Damage(Finding(Severity.ERROR, path, "is missing, with the last changes", remedy))
    before = None
    for first, successor in segments.with_successors(names):
        yield from _segment(layout, first, before, successor, state)
        before = first


def mend(layout: Layout, disk: Disk, first: int) -> str:
    """Blank out what is bad in a segment; the path of the damaged one in lost+found.

    Its good lines stay where they are, because other processes remember where that is.
    Only under the store lock. Empty if nothing is bad.
    """
    names = segments.list_segments(layout)
    segment = _load(layout, first, _after(names, first)) if first in names else None
    if segment is None or not segment.bad:
        return ""
    plain = layout.segment(first)
    is_packed = segment.path != plain
    stem = f"{first:016d}"
    if not is_packed:
        with open(plain, "rb") as file:
            data = file.read()
        kept = lost_and_found.save_copy(layout, disk, stem, SEGMENT_SUFFIX, 1, data)
    disk.make_dir(layout.temporary)
    source = temp_path(layout.temporary)
    disk.write_temp(source, _blanked(layout, segment, names))
    try:
        disk.replace(source, plain)
    except OSError:
        disk.discard(source)
        raise
    disk.sync_dir(layout.journal)
    if is_packed:
        kept = lost_and_found.move_in(layout, disk, segment.path, stem, COMPRESSED_SUFFIX, 1)
    return kept


def mend_copy(layout: Layout, disk: Disk, first: int) -> list[Finding]:
    """Blank out lines that were being written when the live segment was copied.

    ``cp`` reads piece by piece. It can find room where a line begins, and read on when that
    and the next ones are written. Other damage is left. Only under the store lock.
    """
    segment = _load(layout, first, None)
    torn = [bad for bad in segment.bad if bad.start < segment.end] if segment else []
    if segment is None or not torn or not all(_was_room(segment.data, bad) for bad in torn):
        return []
    kept = mend(layout, disk, first)
    problem = "has blanks in lines, as where it was copied in use: their changes are not in it"
    remedy = f"its whole lines count; as it was, it is {kept}"
    return [Finding(Severity.WARNING, Path(segment.path), problem, remedy, True)]


def _was_room(data: bytes, bad: BadLine) -> bool:
    """Whether a part of a bad line is free room still. No line begins with a blank."""
    return data.startswith(lines.BLANK, bad.start) or _ROOM in data[bad.start : bad.end]


def _segment(
    layout: Layout, first: int, before: int | None, successor: int | None, state: State | None
) -> Iterator[Damage]:
    path = segments.path_of(layout, first)
    try:
        if not is_regular(path):
            raise OSError("is no regular file")
        segment = _load(layout, first, successor)
        if segment is None:
            return
        yield from _order(layout, segment, before)
    except FileNotFoundError:
        return  # Pruned meanwhile.
    except OSError as error:
        problem = f"cannot be read: {error.strerror or error}"
        yield Damage(Finding(Severity.ERROR, Path(path), problem, "mend it, or move it away"))
        return
    # What a writer is just adding looks bad, too; only that which lasts is.
    if segment.bad and successor is None:
        if is_held(layout.lock):
            return
        again = _load(layout, first, _after(segments.list_segments(layout), first))
        if again is None or again.bad != segment.bad:
            return
    published = state.offset if state is not None and state.segment == first else 0
    for bad in segment.bad:
        yield Damage(_finding(segment, bad, published), first)


def _finding(segment: Segment, bad: BadLine, published: int) -> Finding:
    path = Path(segment.path)
    if bad.start >= len(segment.data):
        problem = f"ends {bad.end - bad.start} bytes too early: changes are lost"
        return Finding(Severity.ERROR, path, problem, _MEND)
    number = segment.data.count(b"\n", 0, bad.start) + 1
    if segment.is_sealed or bad.start < max(segment.end, published):
        return Finding(Severity.ERROR, path, f"line {number} is damaged", _MEND)
    problem = f"line {number}, the last, is not whole: it was never confirmed, and does not count"
    return Finding(Severity.WARNING, path, problem, _MEND)


def _order(layout: Layout, segment: Segment, before: int | None) -> Iterator[Damage]:
    """Whether a segment follows the one before it."""
    if before is None:
        return  # What it follows was pruned, or never was.
    followed, _ = segments.header(layout, segment.first)
    if followed == before or not segment.data:  # Of an empty one nothing counts.
        return
    path = Path(segment.path)
    if followed == 0:
        problem = "does not say which segment it follows"
        yield Damage(Finding(Severity.WARNING, path, problem, _NOTHING))
    elif followed in segments.list_segments(layout):
        problem = f"does not follow {Path(layout.segment(before)).name}, which lies between"
        yield Damage(Finding(Severity.WARNING, path, problem, "move away what is not the store's"))
    else:
        missing = Path(layout.segment(followed))
        problem = f"is missing, and {path.name} follows it: changes are lost from the history"
        yield Damage(Finding(Severity.ERROR, missing, problem, "put it back from a backup"))


def _blanked(layout: Layout, segment: Segment, names: list[int]) -> bytes:
    """All bytes of a segment, the bad lines blank, and as many as its successor counts."""
    whole = segments.load(layout, segment.first)
    data = bytearray(whole.ljust(segment.bad[-1].end, lines.BLANK))
    begins = {line.start for line in segment.good}
    state = read_state(layout.state)
    if state is not None and state.segment == segment.first:
        begins.add(state.offset)
    for start, end in segment.bad:
        # Blanks end before a line as a line does, or it would not begin there.
        ends = {end} if data[end - 1] == _NEWLINE else set()
        ends |= {begin for begin in begins if start < begin <= end}
        data[start:end] = lines.BLANK * (end - start)
        for begin in ends:
            data[begin - 1] = _NEWLINE
    good = segment.good[0].start if segment.good else len(data)
    room = max((bad.end for bad in segment.bad if bad.end <= good), default=0)
    header = _header(layout, segment.first, names)
    if segment.bad[0].start == 0 and header and len(header) <= room:
        data[: len(header)] = header
    return bytes(data)


def _header(layout: Layout, first: int, names: list[int]) -> bytes:
    """The first line of a segment, as far as the segment before it tells; or nothing."""
    before = max((name for name in names if name < first), default=0)
    if before == 0 and first > 1:
        return b""  # What was before it is pruned, or never was: nobody knows.
    counted = segments.read_segment(layout, before, first).end if before else 0
    return lines.encode(lines.FOLLOWS, {"segment": before, "bytes": counted})


def _load(layout: Layout, first: int, successor: int | None) -> Segment | None:
    try:
        return segments.read_segment(layout, first, successor)
    except FileNotFoundError:
        return None


def _after(names: list[int], first: int) -> int | None:
    return min((name for name in names if name > first), default=None)
