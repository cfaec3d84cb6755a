# SPDX-License-Identifier: Apache-2.0
"""Notices: which files of a folder were changed since it was last asked (man 7 inotify).

The kernel queues a notice before the call that made the change returns, whoever made it.
What it does not tell is in docs/decisions/0013-change-notifications.md.
"""

import os
from contextlib import suppress
from struct import Struct
from typing import Final, Self

from waggle_fsstore.store.fs.linux import inotify_add_watch, inotify_init

# linux/inotify.h: modify, attrib, close_write, moved_from, moved_to, create, delete,
# delete_self, move_self.
_CHANGES: Final = 0x2 | 0x4 | 0x8 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800

# Also: the folder is removed, or its file system unmounted, and nothing more will be noticed.
_OVER: Final = 0x8000

_EVENT: Final = Struct("=iIII")
_READ_BYTES: Final = 1 << 16

# Who changes files all the time must not keep a listing reading for ever.
_MOST_READS: Final = 50


class DirectoryWatcher:
    """Of the changes of one folder, from its making on. Not for several threads at once."""

    def __init__(self, folder: str) -> None:
        """Raises ``OSError``: too many were made, or this system has none."""
        self._path = folder
        self._folder: tuple[int, int] | None = None
        self._descriptor = inotify_init()
        try:
            opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                # By the descriptor: what the path names may be exchanged meanwhile.
                inotify_add_watch(self._descriptor, f"/proc/self/fd/{opened}", _CHANGES)
                self._folder = _inode(os.fstat(opened))
            finally:
                os.close(opened)
        except BaseException:
            self.close()
            raise

    def __del__(self) -> None:
        with suppress(AttributeError):  # As in one whose constructor failed.
            self.close()

    @classmethod
    def try_open(cls, folder: str) -> Self | None:
        """Those of a folder, ``None`` where there are none to be had."""
        try:
            return cls(folder)
        except OSError:
            return None

    def changed(self) -> set[str] | None:
        """The names of the files that were changed since the last call.

        ``None`` if that is not known: too much has happened, or something to the folder.
        """
        names: set[str] = set()
        for _ in range(_MOST_READS):
            data = self._read()
            if not data:
                break
            at = 0
            while at < len(data):
                _, mask, _, length = _EVENT.unpack_from(data, at)
                if mask & _OVER:
                    self._folder = None  # Another one may get its inode, at the same path.
                at += _EVENT.size + length
                names.add(os.fsdecode(data[at - length : at].rstrip(b"\0")))
        else:
            return None
        # One without a name is of the folder itself, or says that notices were lost.
        return None if "" in names or not self.is_in_place() else names

    def close(self) -> None:
        """Notice nothing more, and know of nothing. It may take 10 ms."""
        self._folder = None
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def is_in_place(self) -> bool:
        """Whether the folder at the path is the one that is noticed, and is noticed still."""
        try:
            return _inode(os.stat(self._path)) == self._folder
        except OSError:
            return False

    def _read(self) -> bytes:
        try:
            return os.read(self._descriptor, _READ_BYTES) if self._descriptor >= 0 else b""
        except BlockingIOError:
            return b""


def _inode(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
