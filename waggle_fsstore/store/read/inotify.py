# SPDX-License-Identifier: Apache-2.0
"""Which files in a directory have changed since the last call, from inotify (man 7 inotify).

The kernel queues an event before the call that made the change returns, in any process.
docs/decisions/0013-change-notifications.md lists the changes that cause no event.
"""

import os
from contextlib import suppress
from struct import Struct
from typing import Final, Self

from waggle_fsstore.store.fs.linux import inotify_add_watch, inotify_init

# linux/inotify.h: modify, attrib, close_write, moved_from, moved_to, create, delete,
# delete_self, move_self.
_WATCHED_EVENTS: Final = 0x2 | 0x4 | 0x8 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800

# IN_IGNORED: the directory was removed, or its file system unmounted; no events will follow.
_WATCH_ENDED: Final = 0x8000

_EVENT: Final = Struct("=iIII")
_READ_BYTES: Final = 1 << 16

# A process that changes files without pause must not keep a listing reading for ever.
_MAX_READS: Final = 50


class DirectoryWatcher:
    """Watches one directory, from its construction on. Not thread-safe."""

    def __init__(self, directory: str) -> None:
        """Raise ``OSError`` if the user's limit is reached, or this system has no inotify."""
        self._path = directory
        self._watched_inode: tuple[int, int] | None = None
        self._descriptor = inotify_init()
        try:
            opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                # By descriptor: another directory may be moved to the path in between.
                inotify_add_watch(self._descriptor, f"/proc/self/fd/{opened}", _WATCHED_EVENTS)
                self._watched_inode = _inode(os.fstat(opened))
            finally:
                os.close(opened)
        except BaseException:
            self.close()
            raise

    def __del__(self) -> None:
        with suppress(AttributeError):  # The constructor may have failed.
            self.close()

    @classmethod
    def try_open(cls, directory: str) -> Self | None:
        """Return a watcher of a directory, ``None`` where none is available."""
        try:
            return cls(directory)
        except OSError:
            return None

    def changed(self) -> set[str] | None:
        """Return the names of the files that have changed since the last call.

        ``None`` means unknown: there were too many events, or the directory itself changed.
        """
        names: set[str] = set()
        for _ in range(_MAX_READS):
            data = self._read()
            if not data:
                break
            position = 0
            while position < len(data):
                _, mask, _, length = _EVENT.unpack_from(data, position)
                if mask & _WATCH_ENDED:
                    # A new directory at the same path may get the same inode.
                    self._watched_inode = None
                position += _EVENT.size + length
                names.add(os.fsdecode(data[position - length : position].rstrip(b"\0")))
        else:
            return None
        # An event without a name concerns the directory, or says that events were lost.
        return None if "" in names or not self.is_in_place() else names

    def close(self) -> None:
        """Stop watching; :meth:`changed` returns ``None`` from now on. It may take 10 ms."""
        self._watched_inode = None
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def is_in_place(self) -> bool:
        """Return whether the directory at the path is the one that is still being watched."""
        try:
            return _inode(os.stat(self._path)) == self._watched_inode
        except OSError:
            return False

    def _read(self) -> bytes:
        try:
            return os.read(self._descriptor, _READ_BYTES) if self._descriptor >= 0 else b""
        except BlockingIOError:
            return b""


def _inode(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
