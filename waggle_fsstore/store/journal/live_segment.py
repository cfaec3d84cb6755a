# SPDX-License-Identifier: Apache-2.0
"""The live segment: the one that the holder of the store lock appends lines to.

A file whose fsync failed is not written again, and neither is one with unknown bytes after
our last line: the writer rotates to a new segment, which says how many bytes of the old one
are valid.
"""

import os
from typing import Final

from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.fs.disk import NO_SPACE, Disk, name_file, open_to_write, write
from waggle_fsstore.store.fs.linux import timeless_status
from waggle_fsstore.store.fs.safe_read import read_at
from waggle_fsstore.store.journal import lines, segments

#: A new store must cost next to nothing. Later, rotation must be rare, and the checkpoint that
#: comes with it must stay short.
_MIN_SEGMENT_BYTES: Final = 1 << 16
_MAX_SEGMENT_BYTES: Final = 1 << 19

_BLOCK_BYTES: Final = 4096


class LiveSegment:
    """The live segment. ``first`` is its name, ``end`` where the next line goes (bytes)."""

    __slots__ = ("_descriptor", "_disk", "_inode", "_layout", "_path", "_size", "end", "first")

    def __init__(self, layout: Layout, disk: Disk) -> None:
        self._layout = layout
        self._disk = disk
        self._descriptor: int | None = None
        self._size = 0
        self._inode = 0
        self._path = ""
        self.first = 0
        self.end = 0

    def __del__(self) -> None:
        self.close()

    def open(self, first: int, end: int) -> None:
        """Open a segment that is blank from ``end`` on."""
        # The old one is closed last: after an interrupt, there must still be an open one.
        path = self._layout.segment(first)
        old, self._descriptor = self._descriptor, open_to_write(path)
        self.first, self.end, self._path = first, end, path
        status = os.fstat(self._descriptor)
        self._size, self._inode = status.st_size, status.st_ino
        if old is not None:
            os.close(old)

    def reopen(self, first: int, end: int) -> bool:
        """Continue in a segment; return whether it exists and a line ends at ``end``."""
        if self._descriptor is None or self.first != first or not self._is_in_place():
            self.close()
            try:
                self.open(first, end)
            except FileNotFoundError:
                return False
        self.end = end
        return end > 0 and read_at(self._file(), 1, end - 1) == b"\n"

    def close(self) -> None:
        """Close the file."""
        descriptor, self._descriptor = self._descriptor, None
        self._size = 0
        if descriptor is not None:
            os.close(descriptor)

    def tail_is_intact(self) -> bool:
        """Return whether the segment was not written, cut, replaced or removed since our line."""
        if self._descriptor is None:
            return False
        # The newline of our line, too: a shorter copy may have been restored.
        is_blank = read_at(self._descriptor, 2, self.end - 1) == b"\n" + lines.BLANK
        return self.end > 0 and is_blank and self._is_in_place()

    def has_room(self, size: int) -> bool:
        """Return whether a line of ``size`` bytes fits, with a blank after it."""
        return self.end + size < self._size

    def append(self, line: bytes) -> None:
        """Write a line and fsync it; the caller has made room."""
        try:
            write(self._file(), line, self.end)
        except OSError as error:
            name_file(error, self._path)
            raise
        self.sync()
        self.end += len(line)

    def sync(self) -> None:
        """Fsync what was written to the segment."""
        try:
            self._disk.sync(self._file())
        except OSError as error:
            name_file(error, self._path)
            raise

    def rotate(
        self,
        first: int,
        valid_bytes: int,
        *,
        carry_over: bytes = b"",
        reserve: int = 0,
        begins_era: bool = False,
    ) -> None:
        """Continue in a new segment named ``first``; the old one has ``valid_bytes``.

        The new one begins with the lines ``carry_over``, and has room for a line of
        ``reserve`` bytes. It continues the era of the old one, so that cursors stay valid,
        unless ``begins_era``. After a crash at any point either the old segment is the live one,
        or the new one is, with all the lines that it begins with.
        """
        old = self._descriptor if first != self.first else None
        era = "" if begins_era else self._era()
        era = era or _new_era()
        if old is not None:
            begin = lines.follows(self.first, valid_bytes, era)
        elif self._descriptor is not None and valid_bytes > 0:
            # It has no change yet: replace it by one with the same lines at the same offsets.
            begin = read_at(self._descriptor, valid_bytes, 0)
        else:
            begin = lines.follows(0, 0, era)
        begin += carry_over
        if old is not None and not carry_over:
            # Other processes whose end this was find no blank there, and look for the next one.
            self._disk.truncate(old, valid_bytes)
        if old is None:
            self._disk.make_dir(self._layout.journal)
        self._create(first, begin, len(begin) + reserve + 1, 2 << valid_bytes.bit_length())
        if old is not None and carry_over:
            self._disk.truncate(old, valid_bytes)  # Only now are those lines in the new one.
        self.open(first, len(begin))

    def is_shared(self) -> bool:
        """Return whether the segment has another name too, as in a copy made of hard links."""
        return os.fstat(self._file()).st_nlink > 1

    def sync_names(self) -> None:
        """Fsync the journal directory: a writer may have died before it did so."""
        self._disk.sync_dir(self._layout.journal)

    def _era(self) -> str:
        if self._descriptor is None:
            return segments.era(self._layout)
        return segments.era_in(read_at(self._descriptor, segments.HEADER_BYTES, 0))

    def _create(self, first: int, begin: bytes, needed: int, wanted: int) -> None:
        """Put a segment in place, durably: ``wanted`` bytes large if that is within limits."""
        path, temporary = self._layout.segment(first), self._layout.temporary
        size = max(needed, min(_MAX_SEGMENT_BYTES, max(_MIN_SEGMENT_BYTES, wanted)))
        # On a full disk what is left may do for this one line, of a delete, or for some.
        sizes = sorted({size, needed + -needed % _BLOCK_BYTES, needed})
        while sizes:
            size = sizes.pop()
            try:
                self._disk.write_atomic(path, begin.ljust(size, lines.BLANK), temporary)
                break
            except OSError as error:
                if error.errno not in NO_SPACE or not sizes:
                    raise
        self._disk.sync_dir(self._layout.journal)

    def _is_in_place(self) -> bool:
        """Return whether the open file is the one of this name, and has no other name."""
        try:
            status = timeless_status(self._path)
        except FileNotFoundError:
            return False
        return status.st_ino == self._inode and status.st_nlink == 1

    def _file(self) -> int:
        if self._descriptor is None:
            raise RuntimeError("the journal is not open")
        return self._descriptor


def _new_era() -> str:
    return os.urandom(lines.CRC_DIGITS // 2).hex()
