# SPDX-License-Identifier: Apache-2.0
"""Reading the segments of the journal, without the lock; nothing here writes."""

import os
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final, NamedTuple

from waggle_fsstore.domain.errors import JournalDamagedError
from waggle_fsstore.store.format.layout import COMPRESSED_SUFFIX, SEGMENT_SUFFIX, Layout, first_of
from waggle_fsstore.store.journal import lines
from waggle_fsstore.store.journal.lines import BadLine, Line
from waggle_fsstore.store.journal.selection import Selection

#: More than the first line of a segment has.
HEADER_BYTES: Final = 512

_GZIP_WBITS: Final = 31  # zlib.decompressobj: with the header and the checksum of gzip

# Damage in a compressed segment costs up to this many compressed bytes before it.
_DECOMPRESS_CHUNK_BYTES: Final = 512


class Anchor(NamedTuple):
    """A change that a reader has seen; ``crc`` is the checksum of its line.

    The line is, or was, at ``offset`` (bytes) of ``segment``. ``crc`` is "" if there was none.
    """

    seq: int = 0
    segment: int = 0
    offset: int = 0
    crc: str = ""


class Segment(NamedTuple):
    """The valid part of a segment: its good and bad lines, and its bytes.

    ``first`` is its name. ``data`` begins at offset ``base``, which is 0 if any line is bad.
    """

    first: int
    path: str
    base: int
    data: bytes
    good: list[Line]
    bad: list[BadLine]
    is_sealed: bool

    @property
    def end(self) -> int:
        """The offset at which the last good line ends (bytes)."""
        return self.good[-1].end if self.good else 0

    def text(self, line: Line) -> bytes:
        """Return the bytes of one of its lines."""
        return self.data[line.start - self.base : line.end - self.base]

    def anchor(self, seq: int, line: Line) -> Anchor:
        """Return the anchor of a change in one of its lines."""
        # Not the whole line: that of a batch has thousands of changes, each with an anchor.
        start = line.start - self.base
        head = self.data[start : start + lines.HEAD_BYTES]
        return Anchor(seq, self.first, line.start, lines.crc_of(head))

    def undamaged(self) -> Iterator[Line]:
        """Yield the good lines up to the first damage, then raise as :meth:`raise_on_damage`."""
        for line in self.good:
            if self.bad and self.bad[0].start < line.start:
                break
            yield line
        self.raise_on_damage()

    def raise_on_damage(self) -> None:
        """Raise :class:`JournalDamagedError` for bad lines that no crash leaves.

        Each line is fsynced before the next is written, so a crash leaves at most the last
        line of the live segment bad. Damage is a bad line before a good one, or any bad line
        of a sealed segment.
        """
        if self.bad and (self.is_sealed or self.bad[0].start < self.end):
            number = self.data.count(b"\n", 0, self.bad[0].start) + 1
            raise JournalDamagedError(self.path, number)


def list_segments(layout: Layout) -> list[int]:
    """Return the names of all segments, in order; empty without a journal."""
    try:
        names = os.listdir(layout.journal)
    except FileNotFoundError:
        return []
    return sorted({first for first in map(first_of, names) if first is not None})


def with_successors(names: list[int]) -> Iterator[tuple[int, int | None]]:
    """Pair each name with the next one, and the last with ``None``."""
    return zip(names, [*names[1:], None], strict=False)


def oldest_kept(layout: Layout) -> int:
    """Return the name of the first segment if earlier ones were pruned, else 0.

    All changes from that number on are in the journal, and possibly none before it.
    """
    first = next(iter(list_segments(layout)), 1)
    try:
        return first if first > 1 and header(layout, first) != (0, 0) else 0
    except FileNotFoundError:
        # Pruned just now; otherwise a dangling link.
        return 0 if first in list_segments(layout) else oldest_kept(layout)


def has_all_after(layout: Layout, seq: int) -> bool:
    """Return whether no change after a number is pruned. Ask after reading what follows it."""
    return next(iter(list_segments(layout)), 0) <= seq + 1


def path_of(layout: Layout, first: int) -> str:
    """Return the path of a segment: the compressed file if only that exists."""
    path = layout.segment(first)
    if os.path.lexists(path):
        return path
    packed = packed_path(layout, first)
    return packed if os.path.lexists(packed) else path


def packed_path(layout: Layout, first: int) -> str:
    """Return the path of a compressed segment."""
    return f"{layout.segment(first).removesuffix(SEGMENT_SUFFIX)}{COMPRESSED_SUFFIX}"


def size_of(layout: Layout, first: int) -> int:
    """Return the size of the file of a segment (bytes); 0 if it is gone."""
    try:
        return os.lstat(path_of(layout, first)).st_size
    except FileNotFoundError:
        return 0


def total_size(layout: Layout) -> int:
    """Return the size of the files of all segments (bytes)."""
    return sum(size_of(layout, first) for first in list_segments(layout))


def load(layout: Layout, first: int, size: int = -1, *, start: int = 0) -> bytes:
    """Return up to ``size`` bytes of a segment from offset ``start`` on; -1 for all.

    Of a compressed segment that is damaged, return the bytes before the damage: each line
    has its own checksum. Raises ``OSError``.
    """
    try:
        with open(layout.segment(first), "rb") as file:
            file.seek(start)
            return file.read(size)
    except FileNotFoundError:
        with open(packed_path(layout, first), "rb") as file:
            data = _decompress(file.read())
    return data[start:] if size < 0 else data[start : start + size]


def _decompress(packed: bytes) -> bytes:
    decompressor = zlib.decompressobj(_GZIP_WBITS)
    data = bytearray()
    with suppress(zlib.error):
        for start in range(0, len(packed), _DECOMPRESS_CHUNK_BYTES):
            data += decompressor.decompress(packed[start : start + _DECOMPRESS_CHUNK_BYTES])
    return bytes(data)


def header(layout: Layout, first: int) -> tuple[int, int]:
    """Return the segment that this one follows, and its valid bytes; (0, 0) for none."""
    follows = _follows(load(layout, first, HEADER_BYTES))
    return follows.get("segment", 0), follows.get("bytes", 0)


def era(layout: Layout) -> str:
    """Return the era of the journal, which its live segment records; "" without a journal."""
    first = max(list_segments(layout), default=None)
    try:
        return "" if first is None else era_of(layout, first)
    except FileNotFoundError:  # The store was removed or exchanged just now.
        return ""


def era_of(layout: Layout, first: int) -> str:
    """Return the era that a segment records."""
    return era_in(load(layout, first, HEADER_BYTES))


def era_in(head: bytes) -> str:
    """Return the era in the first bytes of a segment."""
    era: str = _follows(head).get("era", lines.NO_ERA)
    return era


def locate(layout: Layout, seq: int) -> Anchor | None:
    """Return the last change up to number ``seq``; ``None`` if none of them is kept."""
    for first, successor in reversed(list(with_successors(list_segments(layout)))):
        try:
            data = b"" if first > seq else valid_prefix(layout, first, successor)
        except FileNotFoundError:  # Pruned just now, and so are those before it.
            return None
        found = None
        for start, end in lines.split(data, lines.start_after(data, seq - 1)):
            changes = (lines.decode(data[start : end - 1]) or {}).get(lines.CHANGES)
            if changes and changes[0]["seq"] > seq:
                break
            if changes:
                number = max(one["seq"] for one in changes if one["seq"] <= seq)
                head = data[start : start + lines.HEAD_BYTES]
                found = Anchor(number, first, start, lines.crc_of(head))
        if found is not None:
            return found
    return None


def is_in_place(layout: Layout, anchor: Anchor) -> bool:
    """Return whether the line of a change is still where it was."""
    try:
        head = load(layout, anchor.segment, lines.HEAD_BYTES, start=anchor.offset)
    except FileNotFoundError:
        return False
    return bool(anchor.crc) and lines.crc_of(head) == anchor.crc


def _follows(head: bytes) -> dict[str, Any]:
    """Return what the first bytes of a segment say about the one before it."""
    content = lines.decode(head[: head.find(b"\n")]) or {}
    follows: dict[str, Any] = content.get(lines.FOLLOWS, {})
    return follows


def valid_prefix(layout: Layout, first: int, successor: int | None) -> bytes:
    """Return the valid bytes of a segment."""
    return load(layout, first)[: _valid_size(layout, first, successor)]


def read_segment(
    layout: Layout,
    first: int,
    successor: int | None,
    start: int = 0,
    *,
    stop: int = 0,
    after: int = 0,
    only: Selection | None = None,
) -> Segment:
    """Return the valid part of a segment, with the lines from offset ``start`` on.

    With ``stop``, bytes from that offset on are not read; with ``after`` but no ``start``,
    lines before the first change after that number may be left out; for ``only`` see
    :func:`lines.scan`. If a line is bad, all three are ignored, and the whole segment is read.
    """
    size = _valid_size(layout, first, successor)
    data = load(layout, first, max(stop - start, 0) if stop else -1, start=start)
    if size is None or size <= start + len(data):
        valid = data if size is None else data[: max(size - start, 0)]
        begin = lines.start_after(valid, after) if after and not start else 0
        good, bad = lines.scan(valid, begin, only)
        if not bad:
            good = [line.shifted(start) for line in good] if start else good
            path = path_of(layout, first)
            return Segment(first, path, start, valid, good, [], size is not None)
    # Only the whole segment shows which lines are damaged, and their numbers.
    data = load(layout, first)
    good, bad = lines.scan(data[:size], start, only)
    if size is not None and size > len(data):
        bad.append(BadLine(len(data), size))
    return Segment(first, path_of(layout, first), 0, data[:size], good, bad, size is not None)


def _valid_size(layout: Layout, first: int, successor: int | None) -> int | None:
    """Return how many bytes of a segment its successor declares valid; ``None`` for all."""
    if successor is None:
        return None
    followed, size = header(layout, successor)
    return size if followed == first else None
