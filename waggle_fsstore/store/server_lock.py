# SPDX-License-Identifier: Apache-2.0
"""ServerLock: at most one server of a store does what only one may do.

Its files are in ``.waggle`` beside the store lock, which is independent of it: a server holds
its lock as long as it runs. The operating system frees the lock of a server that dies.
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
from waggle_fsstore.store.read.seen_store import SeenStore
from waggle_fsstore.store.write import initialize


class ServerLock:
    """A lock called ``name`` of the store at ``path``. Safe to use from any thread."""

    def __init__(self, path: str | os.PathLike[str], name: str) -> None:
        self._layout = Layout(os.path.realpath(path))
        self._file = InPlaceFile(os.path.join(self._layout.internal, name))
        self._seen_store = SeenStore(self._layout)
        self._threads = threading.Lock()
        self._is_held = False
        register_at_fork(self)

    @property
    def path(self) -> Path:
        """The path of the lock file."""
        return Path(self._file.path)

    def try_acquire(self) -> bool:
        """Take the lock if it is free, and return whether this object holds it now.

        Makes the directory of the lock if there is no store yet. Raises
        :class:`UnsupportedFormatError` where no store may be, :class:`StoreGoneError` where
        there was one, and ``OSError``.
        """
        with self._threads:
            self._seen_store.check()
            if self._is_held and self._file.is_in_place():
                return True
            # Not held, or on a file that other processes no longer see: ``git clean`` removed it.
            self._release()
            initialize.ensure_lock_dir(self._layout, Disk(durable=False), self._seen_store)
            descriptor, _ = self._file.open()
            if not try_lock(descriptor) or not self._file.is_in_place():
                self._release()
                return False
            self._file.overwrite(describe_holder())
            self._is_held = True
            return True

    def holder(self) -> LockHolder | None:
        """Return the process that took the lock last; ``None`` if that is unknown."""
        return read_holder(self._file.path)

    def release(self) -> None:
        """Release the lock."""
        with self._threads:
            self._release()

    def reset_after_fork(self) -> None:
        """Drop the lock in a forked child: the parent holds it, until the parent ends."""
        self._threads = threading.Lock()
        self._release()

    def _release(self) -> None:
        self._is_held = False
        self._file.close()  # This frees the lock.
