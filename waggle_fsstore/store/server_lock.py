# SPDX-License-Identifier: Apache-2.0
"""The locks of servers: at most one does what only one may do, and each tells that it runs.

Their files are in ``.waggle`` beside the store lock, which is independent of them: a server
holds its locks as long as it runs. The operating system frees those of a server that dies.
"""

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

from waggle_fsstore.domain.at_fork import register_at_fork
from waggle_fsstore.domain.errors import LockHolder
from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.fs.disk import Disk
from waggle_fsstore.store.fs.in_place_file import InPlaceFile
from waggle_fsstore.store.fs.lock import describe_holder, is_held, read_holder, try_lock
from waggle_fsstore.store.read.seen_store import SeenStore
from waggle_fsstore.store.write import initialize

#: The directory of the files of :class:`ServerPresence`, in ``.waggle``.
_SERVERS: Final = "servers"

# A look by another process is over in microseconds.
_ANNOUNCE_ATTEMPTS: Final = 10


class ServerLock:
    """A lock called ``name`` of the store at ``path``. Safe to use from any thread."""

    def __init__(self, path: str | os.PathLike[str], name: str) -> None:
        self._layout = Layout(os.path.realpath(path))
        self._file = InPlaceFile(os.path.join(self._layout.internal, name))
        self._seen_store = SeenStore(self._layout)
        self._threads = threading.Lock()
        self._is_held = False
        self._description = b""
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
            disk = Disk(durable=False)
            initialize.ensure_lock_dir(self._layout, disk, self._seen_store)
            disk.make_dir(os.path.dirname(self._file.path))
            descriptor, _ = self._file.open()
            if not try_lock(descriptor) or not self._file.is_in_place():
                self._release()
                return False
            self._description = describe_holder()
            self._file.overwrite(self._description)
            self._is_held = True
            return True

    def holder(self) -> LockHolder | None:
        """Return the process that took the lock last; ``None`` if that is unknown."""
        return read_holder(self._file.path)

    def beat(self) -> None:
        """Show other processes that the holder of the lock works; see :meth:`last_beat`."""
        # On a full disk a beat may fail. Another server then sweeps too, which is harmless.
        with self._threads, suppress(OSError):
            if self._is_held:
                self._file.overwrite(self._description)

    def last_beat(self) -> int:
        """Return a number that differs after each beat of the holder, in any process."""
        try:
            return os.stat(self._file.path).st_mtime_ns
        except FileNotFoundError:
            return 0

    def release(self) -> None:
        """Release the lock."""
        with self._threads:
            self._release()

    def reset_after_fork(self) -> None:
        """Drop the lock in a forked child: the parent holds it, until the parent ends."""
        self._threads = threading.Lock()
        self._is_held = False
        self._file.close()

    def _release(self) -> None:
        self._is_held = False
        self._file.close()  # This frees the lock.


class ServerPresence(ServerLock):
    """The lock by which a server of the store at ``path`` shows that it runs.

    Each server has a separate file in ``.waggle/servers``, and removes it with its release.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path, os.path.join(_SERVERS, os.urandom(8).hex()))

    def try_acquire(self) -> bool:
        """Take the lock, and return whether this object holds it now.

        Removes the files of dead servers. Raises what :meth:`ServerLock.try_acquire` raises.
        """
        # A process that looks for servers may hold the lock for an instant, and one that
        # removes the files of dead servers may remove this one before it is locked.
        for _ in range(_ANNOUNCE_ATTEMPTS):
            if super().try_acquire():
                self._remove_dead()
                return True
        return False

    def _release(self) -> None:
        if self._is_held:
            Disk(durable=False).discard(self._file.path)
        super()._release()

    def _remove_dead(self) -> None:
        for path in _files(self._layout):
            file = InPlaceFile(path, create=False)
            with suppress(OSError):  # A file that remains does no harm.
                if try_lock(file.open()[0]) and file.is_in_place():
                    Disk(durable=False).remove(path)
            file.close()


def running_servers(path: str | os.PathLike[str]) -> list[LockHolder | None]:
    """Return the servers that run on the store at ``path``; ``None`` for an unknown process.

    Changes nothing. A server that was killed has ended; one that is stopped still runs.
    """
    layout = Layout(os.path.realpath(path))
    return [read_holder(file) for file in _files(layout) if is_held(file)]


def _files(layout: Layout) -> list[str]:
    """Return the files of :class:`ServerPresence`."""
    try:
        with os.scandir(os.path.join(layout.internal, _SERVERS)) as entries:
            return [entry.path for entry in entries if entry.is_file(follow_symlinks=False)]
    except FileNotFoundError:
        return []
