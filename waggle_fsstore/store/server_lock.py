# SPDX-License-Identifier: Apache-2.0
"""Server locks: which of the servers of a store does what only one may do.

They stand in ``.waggle`` beside the store lock, and have nothing to do with it: one is
held for as long as a server runs. The operating system frees that of one that dies.
"""

import os
import threading
from pathlib import Path

from waggle_fsstore.domain.at_fork import register_at_fork
from waggle_fsstore.domain.errors import LockHolder
from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.fs.disk import Disk
from waggle_fsstore.store.fs.in_place_file import InPlaceFile
from waggle_fsstore.store.fs.lock import describe_holder, read_holder, try_lock
from waggle_fsstore.store.write import initialize


class ServerLock:
    """A lock of the store at ``path``, called ``name``. Of any thread."""

    def __init__(self, path: str | os.PathLike[str], name: str) -> None:
        self._layout = Layout(os.path.realpath(path))
        self._file = InPlaceFile(os.path.join(self._layout.internal, name))
        self._threads = threading.Lock()
        self._is_held = False
        register_at_fork(self)

    @property
    def path(self) -> Path:
        """Where the lock file is."""
        return Path(self._file.path)

    def try_acquire(self) -> bool:
        """Take the lock if nobody has it; whether this object has it now.

        Makes the folder of the lock if there is no store yet. Raises
        :class:`UnsupportedFormatError` where that is no place for a store, and ``OSError``.
        """
        with self._threads:
            if self._is_held and self._file.is_in_place():
                return True
            # Not the file that others see: ``git clean`` took it away.
            self._release()
            initialize.ensure_lock_dir(self._layout, Disk(durable=False))
            descriptor, _ = self._file.open()
            if not try_lock(descriptor) or not self._file.is_in_place():
                self._release()
                return False
            self._file.overwrite(describe_holder())
            self._is_held = True
            return True

    def holder(self) -> LockHolder | None:
        """Who took it last; ``None`` if that cannot be told."""
        return read_holder(self._file.path)

    def release(self) -> None:
        """Let others have it."""
        with self._threads:
            self._release()

    def reset_after_fork(self) -> None:
        """In a child: the lock is the parent's, and free once that has ended."""
        self._threads = threading.Lock()
        self._release()

    def _release(self) -> None:
        self._is_held = False
        self._file.close()  # Which frees the lock with it.
