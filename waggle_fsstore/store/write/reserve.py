# SPDX-License-Identifier: Apache-2.0
"""The reserve: room kept on the disk for the changes that free some, and end environments.

The file ``.waggle/reserve`` has allocated blocks and no contents. When such a change finds the
disk full, the writer gives up half of the blocks, and repeats it. The size of the file says how
much is wanted, its blocks how much is left.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.fs.disk import NO_SPACE, Disk, free_bytes, sizes_of

# To make a file at all, XFS wants 200 kB to be free (Linux 6.18). A new store must be cheap.
_MIN_RESERVE_BYTES: Final = 1 << 18

# A change to *destroying* writes the document and a line that holds it; the delete, another line.
_TIMES_A_DOCUMENT: Final = 3

# A small disk must have room for documents too.
_SHARE_OF_FREE_BYTES: Final = 8

_BLOCK_BYTES: Final = 4096

_T = TypeVar("_T")


class Reserve:
    """The reserve of one store. A store that does not sync has none."""

    __slots__ = ("_disk", "_is_filled", "_path", "_wanted")

    def __init__(self, layout: Layout, disk: Disk) -> None:
        self._path = layout.reserve
        self._disk = disk
        self._wanted = _MIN_RESERVE_BYTES
        self._is_filled = False

    def run(self, work: Callable[[], _T], may_spend: Callable[[], bool] = lambda: True) -> _T:
        """Return ``work()``; on a full disk give up room, and call it again, if ``may_spend()``.

        Then allocate what is missing, as far as there is room.
        """
        had = 0
        while True:
            try:
                result = work()
                break
            except OSError as error:
                if error.errno not in NO_SPACE or not may_spend():
                    raise
                had = had or sizes_of(self._path)[1]
                if not self._spend():
                    raise
        if had or not self._is_filled:
            with suppress(OSError):  # No change fails for want of a reserve.
                if had:
                    self._take_back(had)
                else:
                    self._fill()
        return result

    def want(self, document_bytes: int) -> None:
        """Want enough for a document of this size."""
        wanted = _MIN_RESERVE_BYTES + _TIMES_A_DOCUMENT * document_bytes
        if wanted > self._wanted:
            self._wanted = wanted
            self._is_filled = False

    def look_again(self) -> None:
        """Look, after the next change, whether something is missing."""
        self._is_filled = False

    def _fill(self) -> None:
        self._is_filled = True
        size, allocated = sizes_of(self._path)
        self._wanted = max(self._wanted, size)
        room = free_bytes(os.path.dirname(self._path)) // _SHARE_OF_FREE_BYTES
        self._allocate(min(self._wanted, allocated + room), allocated)

    def _take_back(self, had: int) -> None:
        """Allocate what was given up, as far as the change has left it."""
        size, allocated = had, sizes_of(self._path)[1]
        while not self._allocate(size, allocated):
            size = (allocated + size) // 2

    def _allocate(self, size: int, allocated: int) -> bool:
        """Allocate a number of bytes, and return whether that succeeded or there was no need."""
        size -= size % _BLOCK_BYTES
        if size <= allocated or not self._disk.durable:
            return True
        try:
            self._disk.allocate(self._path, size)
        except OSError:
            return False
        return True

    def _spend(self) -> bool:
        """Give up half of the blocks, the last one with the file; return whether there were any."""
        left = sizes_of(self._path)[1] // 2
        try:
            if left >= _BLOCK_BYTES:
                self._disk.give_up(self._path, left - left % _BLOCK_BYTES)
            else:
                self._disk.remove(self._path)
        except OSError:
            return False
        return True
