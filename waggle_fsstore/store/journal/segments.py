# SPDX-License-Identifier: Apache-2.0
"""Reading the journal: its segments in order, without the lock and without changing any."""

import os
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from waggle_fsstore.domain.errors import JournalDamagedError
from waggle_fsstore.store.format.layout import COMPRESSED_SUFFIX, SEGMENT_SUFFIX, Layout, first_of
from waggle_fsstore.store.journal import lines
from waggle_fsstore.store.journal.lines import Line

# Enough for the first line of any segment.
_HEADER_BYTES: Final = 512

_GZIP: Final = 31  # zlib.decompressobj: with the header and the checksum of gzip
_PIECE: Final = 512  # of it, at most one that holds damage is lost


class Segment(NamedTuple):
    """What counts of one segment: its good lines, and its bytes up to the last that counts.

    ``base`` is where these begin (bytes), 0 if anything is bad.
    """

    first: int
    path: str
    base: int
    data: bytes
    good: list[Line]
    bad: list[lines.BadLine]
    is_sealed: bool

    @property
    def end(self) -> int:
        """Where the last good line ends."""
        return self.good[-1].end if self.good else 0

    def text(self, line: Line) -> bytes:
        """The bytes of one of its lines."""
        return self.data[line.start - self.base : line.end - self.base]

    def raise_on_damage(self) -> None:
        """Raise :class:`JournalDamagedError` for what no crash leaves.

        That is a bad line before a good one, because each line was flushed before the
        next, or any bad line in what the next segment says is good.
        """
        if self.bad and (self.is_sealed or self.bad[0].start < self.end):
            number = self.data.count(b"\n", 0, self.bad[0].start) + 1
            raise JournalDamagedError(self.path, number)


def list_segments(layout: Layout) -> list[int]:
    """The first changes of all segments, in order; none where there is no journal."""
    try:
        names = os.listdir(layout.journal)
    except FileNotFoundError:
        return []
    return sorted({first for first in map(first_of, names) if first is not None})


def with_successors(names: list[int]) -> Iterator[tuple[int, int | None]]:
    """Each of some segments and the next one, ``None`` after the last."""
    return zip(names, [*names[1:], None], strict=False)


def path_of(layout: Layout, first: int) -> str:
    """The file of a segment: compressed if only that is left."""
    path = layout.segment(first)
    if os.path.lexists(path):
        return path
    packed = packed_path(layout, first)
    return packed if os.path.lexists(packed) else path


def packed_path(layout: Layout, first: int) -> str:
    """The file of a segment that is compressed."""
    return f"{layout.segment(first).removesuffix(SEGMENT_SUFFIX)}{COMPRESSED_SUFFIX}"


def size_of(layout: Layout, first: int) -> int:
    """Return the size of the file of a segment (bytes), 0 if it is gone."""
    try:
        return os.lstat(path_of(layout, first)).st_size
    except FileNotFoundError:
        return 0


def load(layout: Layout, first: int, size: int = -1, *, start: int = 0) -> bytes:
    """The bytes of a segment from an offset on, or so many. Raises ``OSError``.

    A damaged compressed one gives the bytes before the damage: its lines have checksums.
    """
    try:
        with open(layout.segment(first), "rb") as file:
            file.seek(start)
            return file.read(size)
    except FileNotFoundError:
        with open(packed_path(layout, first), "rb") as file:
            data = _unpack(file.read())
    return data[start:] if size < 0 else data[start : start + size]


def _unpack(data: bytes) -> bytes:
    unpacker = zlib.decompressobj(_GZIP)
    unpacked = bytearray()
    with suppress(zlib.error):
        for start in range(0, len(data), _PIECE):
            unpacked += unpacker.decompress(data[start : start + _PIECE])
    return bytes(unpacked)


def header(layout: Layout, first: int) -> tuple[int, int]:
    """The segment that a segment follows, and how many bytes of that count; (0, 0) for none."""
    data = load(layout, first, _HEADER_BYTES)
    content = lines.decode(data[: data.find(b"\n")]) or {}
    follows = content.get(lines.FOLLOWS, {})
    return follows.get("segment", 0), follows.get("bytes", 0)


def valid_prefix(layout: Layout, first: int, successor: int | None) -> bytes:
    """The bytes of a segment that count: as many as its successor says it follows."""
    return load(layout, first)[: _valid_size(layout, first, successor)]


def read_segment(
    layout: Layout,
    first: int,
    successor: int | None,
    start: int = 0,
    *,
    stop: int | None = None,
    after: int = 0,
    about: bytes = b"",
) -> Segment:
    """What counts of one segment, its lines from an offset on; see :func:`lines.scan`.

    Without an offset, lines that come before the changes after ``after`` may be left out.
    If nothing is bad before ``stop``, what comes after that is not looked at.
    """
    size = _valid_size(layout, first, successor)
    room = -1 if stop is None else max(stop - start, 0)
    data = load(layout, first, room, start=start)
    if size is None or size <= start + len(data):
        seen = data if size is None else data[: max(size - start, 0)]
        begin = lines.start_after(seen, after) if after and not start else 0
        good, bad = lines.scan(seen, begin, about)
        if not bad:
            good = [line.moved(start) for line in good] if start else good
            path = path_of(layout, first)
            return Segment(first, path, start, seen, good, [], size is not None)
    # Where damage is, only all of it tells.
    data = load(layout, first)
    good, bad = lines.scan(data[:size], start, about)
    if size is not None and size > len(data):
        bad.append(lines.BadLine(len(data), size))
    return Segment(first, path_of(layout, first), 0, data[:size], good, bad, size is not None)


def _valid_size(layout: Layout, first: int, successor: int | None) -> int | None:
    """How many bytes of a segment count; ``None`` where its successor does not say."""
    if successor is None:
        return None
    followed, size = header(layout, successor)
    return size if followed == first else None
