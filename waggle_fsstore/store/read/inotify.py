# SPDX-License-Identifier: Apache-2.0
"""Which files in a directory have changed since the last call, from inotify (man 7 inotify).

The kernel queues an event before the call that made the change returns, in any process.
docs/decisions/0013-change-notifications.md lists the changes that cause no event.
"""

import os
from contextlib import suppress
from struct import Struct
from typing import Final, Self

from waggle_fsstore.store.fs.linux import bytes_to_read, inotify_add_watch, inotify_init

# linux/inotify.h: modify, attrib, close_write, moved_from, moved_to, create, delete,
# delete_self, move_self.
_WATCHED_EVENTS: Final = 0x2 | 0x4 | 0x8 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800

# IN_IGNORED: the directory was removed, or its file system unmounted; no events will follow.
_WATCH_ENDED: Final = 0x8000

_EVENT: Final = Struct("=iIII")
_MAX_EVENT_BYTES: Final = _EVENT.size + 256
_READ_BYTES: Final = 1 << 16

# A process that changes files without pause must not keep a listing reading for ever.
_MAX_READS: Final = 50


class DirectoryWatcher:
    """Watches one directory, from its construction on. Not thread-safe."""

    def __init__(self, directory: str) -> None:
        """Start to watch. Raises ``OSError`` at the user's limit, and where there is no inotify."""
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
            position = 0
            while position < len(data):
                _, mask, _, length = _EVENT.unpack_from(data, position)
                if mask & _WATCH_ENDED:
                    # A new directory at the same path may get the same inode.
                    self._watched_inode = None
                position += _EVENT.size + length
                names.add(os.fsdecode(data[position - length : position].rstrip(b"\0")))
            if len(data) + _MAX_EVENT_BYTES <= _READ_BYTES:  # One more would have had room.
                # An event without a name concerns the directory, or says that events were lost.
                return None if "" in names or self._watched_inode is None else names
        return None

    def has_events(self) -> bool:
        """Return whether :meth:`changed` has something to read."""
        return self._descriptor < 0 or bytes_to_read(self._descriptor) > 0

    def close(self) -> None:
        """Stop watching; :meth:`changed` returns ``None`` from now on. It may take 10 ms."""
        self._watched_inode = None
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def watches(self, directory: os.stat_result | None) -> bool:
        """Return whether it is still watching the directory of this status."""
        return directory is not None and _inode(directory) == self._watched_inode

    def _read(self) -> bytes:
        try:
            return os.read(self._descriptor, _READ_BYTES) if self._descriptor >= 0 else b""
        except BlockingIOError:
            return b""


def _inode(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
