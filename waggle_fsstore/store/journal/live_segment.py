# SPDX-License-Identifier: Apache-2.0
"""The journal as its writer sees it: the one segment that lines are appended to.

All of it under the store lock. What is in a file whose flush failed, and what stands
after the place where this process stopped, is never trusted and never written into: the
only way on is a switch to a new segment, which says how much of the old one counts.
"""

import errno
import os
from typing import Final

from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.fs.disk import Disk, name_file, open_to_write, temp_path, write
from waggle_fsstore.store.fs.safe_read import read_at
from waggle_fsstore.store.journal import lines

#: A new store must cost next to nothing; later a switch must be rare, and a checkpoint,
#: which comes with it, must stay short.
_FIRST_BYTES: Final = 1 << 16
_MOST_BYTES: Final = 1 << 19

_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class LiveSegment:
    """The live segment: ``first`` is its name, ``tail`` where the next line goes (bytes)."""

    __slots__ = ("_descriptor", "_disk", "_inode", "_layout", "_size", "first", "tail")

    def __init__(self, layout: Layout, disk: Disk) -> None:
        self._layout = layout
        self._disk = disk
        self._descriptor: int | None = None
        self._size = 0
        self._inode = 0
        self.first = 0
        self.tail = 0

    def __del__(self) -> None:
        self.close()

    def open(self, first: int, tail: int) -> None:
        """Go on in a segment whose rest is blank."""
        # The old one is closed last: an interrupt must not make it look as if there were none.
        old, self._descriptor = self._descriptor, open_to_write(self._layout.segment(first))
        self.first, self.tail = first, tail
        status = os.fstat(self._descriptor)
        self._size, self._inode = status.st_size, status.st_ino
        if old is not None:
            os.close(old)

    def reopen(self, first: int, tail: int) -> bool:
        """Go on in a segment if there is one of this name, and a line ends at this tail."""
        if self._descriptor is None or self.first != first or not self._is_in_place():
            self.close()
            try:
                self.open(first, tail)
            except FileNotFoundError:
                return False
        self.tail = tail
        return tail > 0 and read_at(self._file(), 1, tail - 1) == b"\n"

    def close(self) -> None:
        """Release the descriptor, and forget where the tail was."""
        descriptor, self._descriptor = self._descriptor, None
        self._size = 0
        if descriptor is not None:
            os.close(descriptor)

    def tail_is_intact(self) -> bool:
        """Whether nobody wrote, cut off, replaced or removed the segment since our last line."""
        if self._descriptor is None:
            return False
        # The end of our line too: somebody may have put back a shorter copy.
        is_blank = read_at(self._descriptor, 2, self.tail - 1) == b"\n" + lines.BLANK
        return self.tail > 0 and is_blank and self._is_in_place()

    def has_room(self, size: int) -> bool:
        """Whether a line of this many bytes fits, and a blank after it."""
        return self.tail + size < self._size

    def append(self, line: bytes) -> None:
        """Write a line and flush it; the caller made room."""
        try:
            write(self._file(), line, self.tail)
        except OSError as error:
            name_file(error, self._layout.segment(self.first))
            raise
        self.sync()
        self.tail += len(line)

    def sync(self) -> None:
        """Have the device keep what was written to the segment."""
        try:
            self._disk.sync(self._file())
        except OSError as error:
            name_file(error, self._layout.segment(self.first))
            raise

    def rotate(self, first: int, cut: int, *, carry: bytes = b"", room: int = 0) -> None:
        """Go on in a new segment, named ``first``; of the old one the bytes up to ``cut`` count.

        ``carry`` are lines that the new one begins with, ``room`` is the size of the line
        that is to follow (bytes). After a crash at any point, either the old one is live
        still, or the new one is, with all that it begins with.
        """
        old = self._descriptor
        if old is not None and first == self.first and cut > 0:
            # There is no change in it yet. It is replaced, and what offsets mean stays.
            begin = read_at(old, cut, 0)
            old = None
        else:
            before = {"segment": self.first, "bytes": cut}
            nothing = {"segment": 0, "bytes": 0}
            is_next = old is not None and first != self.first
            begin = lines.encode(lines.FOLLOWS, before if is_next else nothing)
        if old is not None and not carry:
            # The others, whose tail this was, see the end of the file, and look for the next.
            self._disk.truncate(old, cut)
        begin += carry
        self._disk.make_dir(self._layout.journal)
        source = temp_path(self._layout.temporary)
        least = len(begin) + room + 1
        size = min(_MOST_BYTES, max(_FIRST_BYTES, least, 2 << cut.bit_length()))
        try:
            self._disk.write_temp(source, begin.ljust(max(size, least), lines.BLANK))
        except OSError as error:
            if error.errno not in _NO_SPACE:
                raise
            # What is left may do for this one line: a delete, that makes room.
            self._disk.write_temp(source, begin.ljust(least, lines.BLANK))
        try:
            self._disk.replace(source, self._layout.segment(first))
        except OSError:
            self._disk.discard(source)
            raise
        self._disk.sync_dir(self._layout.journal)
        if old is not None and carry:
            self._disk.truncate(old, cut)  # Only now is what was carried kept elsewhere.
        self.open(first, len(begin))

    def is_shared(self) -> bool:
        """Whether the segment has another name too, in a copy made of hard links."""
        return os.fstat(self._file()).st_nlink > 1

    def sync_names(self) -> None:
        """Have the device keep the names of the segments: whoever made one may have died."""
        self._disk.sync_dir(self._layout.journal)

    def _is_in_place(self) -> bool:
        """Whether the open file is the one of this name, and has no other name."""
        try:
            status = os.stat(self._layout.segment(self.first))
        except FileNotFoundError:
            return False
        return status.st_ino == self._inode and status.st_nlink == 1

    def _file(self) -> int:
        if self._descriptor is None:
            raise RuntimeError("the journal is not open")
        return self._descriptor
