# SPDX-License-Identifier: Apache-2.0
"""The store lock: one writer at a time, over all threads and processes.

The lock file is permanent: it is never removed, and no process takes the lock over because
of its age. The operating system frees the lock of a process that dies. One descriptor stays
open: to lock it takes a microsecond, to open the file each time a hundred.
"""

import errno
import os
import platform
import random
import struct
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Final, TypeVar

from filelock import lock_descriptor, unlock_descriptor

from waggle_fsstore.domain.at_fork import register_at_fork
from waggle_fsstore.domain.cleanup import run_with_cleanup
from waggle_fsstore.domain.clock import monotonic
from waggle_fsstore.domain.errors import LockHolder, LockTimeoutError, StoreClosedError
from waggle_fsstore.store.fs.in_place_file import InPlaceFile
from waggle_fsstore.store.fs.linux import file_clock, has_change_times, is_fine_time

if sys.platform != "win32":
    import fcntl

# Pauses while another process holds the lock: at first about as long as a change takes, because
# a waiting process that looks more often only takes time from the holder, and never long,
# because a fixed 50 ms costs a third of the throughput.
_MIN_PAUSE_S: Final = 0.0005
_MAX_PAUSE_S: Final = 0.005

# ``git clean`` may remove the lock file, or a move of the store replace it, but hardly ever twice.
_MAX_REPLACEMENTS: Final = 100

# Windows locks the first byte against readers too, so the holder is written after it.
_HOLDER_OFFSET: Final = 1
_HOLDER_BYTES: Final = 400
_SECOND_NS: Final = 1_000_000_000
_MAX_HOLDER_AGE_NS: Final = _SECOND_NS
_HOST: Final = "_".join(platform.node().split()) or "localhost"

# man 2 fcntl, struct flock: type, whence, start, length, process id; as large as its alignment.
_FLOCK: Final = "@hhqqi0q"

_T = TypeVar("_T")


class StoreLock:
    """The lock of one open store. ``timeout`` is in seconds.

    ``make_dir`` is called when the directory of the lock file is missing or a file. Without it
    the lock creates no file, and works on a read-only file system.
    """

    def __init__(
        self, path: str, *, timeout: float, make_dir: Callable[[], object] | None = None
    ) -> None:
        if not 0 <= timeout <= threading.TIMEOUT_MAX:
            raise ValueError(f"lock_timeout: {timeout!r} is not a number of seconds")
        self._file = InPlaceFile(path, create=make_dir is not None)
        #: How many seconds to wait for another holder.
        self.timeout = timeout
        self._make_dir = make_dir
        #: Called whenever a thread has released the lock.
        self.on_release: Callable[[], object] = lambda: None
        self._reset_threads()
        self._locked = False
        self._trying = False
        #: A number that changes when the lock file is reopened: cached state is invalid then.
        self.generation = 0
        #: Whether the lock was closed, and cannot be taken any more.
        self.closed = False
        #: The time of modification of the file by which this object knows its own description,
        #: see _describe_holder(); 0 for none.
        self._described = 0
        #: Whether this object was the holder before too, and described itself within a second.
        self.was_held_here = False
        self._has_change_times: bool | None = None
        register_at_fork(self)

    def run(self, work: Callable[[], _T], *, timeout: float | None = None) -> _T:
        """Return ``work()``, done while this thread of this process alone holds the lock.

        ``timeout`` is in seconds.

        Raises :class:`LockTimeoutError`, :class:`StoreClosedError`, ``RuntimeError`` if this
        thread holds the lock already, for example in a signal handler, and
        ``FileNotFoundError`` for a missing lock file without ``make_dir``.
        """
        self._refuse_nesting()

        def locked() -> _T:
            self._acquire(self.timeout if timeout is None else timeout)
            return work()

        return run_with_cleanup(locked, self._release)

    def run_if_free(self, work: Callable[[], object]) -> bool:
        """Run ``work`` as :meth:`run` does, unless another thread of this process holds the lock.

        Returns whether it ran. Waits for other processes only.
        """
        self._refuse_nesting()

        def locked() -> bool:
            if is_free := self._acquire(self.timeout, waits_for_threads=False):
                work()
            return is_free

        return run_with_cleanup(locked, self._release)

    def close(self) -> bool:
        """Refuse the lock from now on, and wait up to the lock timeout for its holder.

        Returns whether the lock is free. Its file is closed, by the holder if there is one.
        """
        self._refuse_nesting()
        self.closed = True
        return run_with_cleanup(partial(self._threads.acquire, timeout=self.timeout), self._release)

    def is_in_place(self) -> bool:
        """Return whether the lock is held, on the file that other processes see."""
        return self._locked and self._file.is_in_place()

    def _refuse_nesting(self) -> None:
        if self._is_mine():
            raise RuntimeError("this thread is in the middle of a change of the same store")

    def _acquire(self, timeout: float, *, waits_for_threads: bool = True) -> bool:
        deadline = None  # Looking at the clock takes time, and the lock is free most of the time.
        if not self._threads.acquire(False):  # By name it takes twice as long.
            if not waits_for_threads:
                return False
            deadline = monotonic() + timeout
            if not self._threads.acquire(timeout=timeout):
                raise self.timed_out(timeout)
        if self.closed:
            raise StoreClosedError
        self._trying = True
        for _ in range(_MAX_REPLACEMENTS):
            descriptor = self._open()
            if not try_lock(descriptor):
                deadline = deadline or monotonic() + timeout
                self._wait(descriptor, deadline, timeout)
            if self._file.is_in_place():
                if self._file.is_writable:
                    self._describe_holder()
                # Last: after an earlier interrupt, the time of another description is no proof.
                self._locked = True
                return True
            self._release_file()  # Else two processes would hold two locks.
        raise OSError(
            errno.ENOTSUP,
            "was another file each time that it was locked: choose a file system that keeps the "
            "inode number of a file, or stop the program that replaces this one",
            self._file.path,
        )

    def _describe_holder(self) -> None:
        """Write which process holds the lock, unless this object did so in the last second.

        Any other holder has written since, and changed the time of the file.
        """
        self.was_held_here = bool(
            self._described
            and self._described == self._file.modified
            and abs(file_clock() - self._described) < _MAX_HOLDER_AGE_NS
            and self._shows_changes()
        )
        if not self.was_held_here:
            self._file.overwrite(describe_holder())

    def _time_of_description(self) -> int:
        """Return the time by which to know the present description; 0 if that may be ambiguous.

        File times tick every 1-10 ms: a later holder may write within the same tick, unless the
        times are fine. Some file systems store whole seconds only.
        """
        time_ns = self._file.modified
        is_unique = time_ns < file_clock() or is_fine_time(time_ns)
        return time_ns if time_ns % _SECOND_NS and is_unique else 0

    def _shows_changes(self) -> bool:
        """Return whether each change of the open file sets its time, from the system's clock."""
        if self._has_change_times is None:
            self._has_change_times = has_change_times(self._file.path)
        return self._has_change_times

    def _release(self) -> None:
        """Release what this thread holds: the lock, a part of it, or nothing."""
        if not self._is_mine():
            return  # Also in a child that was forked in the meantime: its parent holds the lock.
        try:
            if self._locked and not self.closed:
                if not self.was_held_here:
                    self._described = self._time_of_description()
                unlock_descriptor(self._file.open()[0])
                self._locked = False
            elif self._trying or self.closed:
                # Not locked, unless an interrupt came before that was recorded.
                self._release_file()
            self._trying = False
        except BaseException:
            self._release_file()
            raise
        finally:
            self._threads.release()
            self.on_release()

    def _open(self) -> int:
        try:
            descriptor, is_new = self._file.open()
        except (FileNotFoundError, NotADirectoryError):
            if self._make_dir is None:
                raise
            self._make_dir()
            descriptor, is_new = self._file.open()
        self.generation += is_new
        return descriptor

    def _wait(self, descriptor: int, deadline: float, timeout: float) -> None:
        """Lock the file once the other process that holds it lets go."""
        pause = _MIN_PAUSE_S
        while True:
            if self.closed:
                raise StoreClosedError
            remaining = deadline - monotonic()
            if remaining <= 0:
                raise self.timed_out(timeout)
            # Spread out, so that waiting processes do not wake in step.
            time.sleep(min(remaining, pause * random.uniform(0.5, 1.0)))  # noqa: S311  # no secret
            if try_lock(descriptor):
                return
            pause = min(pause * 2, _MAX_PAUSE_S)

    def _release_file(self) -> None:
        """Close the file, which frees the lock with it."""
        self._locked = self.was_held_here = False
        self._described = 0
        self._has_change_times = None
        self._file.close()

    def timed_out(self, timeout: float) -> LockTimeoutError:
        """Return the error of a caller that has waited for ``timeout`` seconds."""
        return LockTimeoutError(self._file.path, read_holder(self._file.path), timeout)

    def reset_after_fork(self) -> None:
        """Close the file without unlocking it: that would free the lock of the parent."""
        self._reset_threads()
        self._release_file()

    def _reset_threads(self) -> None:
        self._threads = threading.RLock()
        # Asked of the lock itself, as threading.Condition does: an interrupt could come between
        # taking it and a flag.
        self._is_mine: Callable[[], bool] = self._threads._is_owned  # type: ignore[attr-defined]


def is_held(path: str) -> bool:
    """Return whether any process holds a lock. Writes nothing.

    Two processes that ask at once do not take each other for a holder: where the system has
    shared locks, that is what each tries to take for an instant.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _try_lock_shared(descriptor)
    except OSError:  # A file system without locks, or whose locks need a writable file.
        return True
    finally:
        os.close(descriptor)  # This frees the lock.


def is_left_behind(path: str, is_there: Callable[[], bool]) -> bool:
    """Return whether something is there that no holder of a lock is just about to change.

    A holder may have changed it just before the lock was tried, so it is looked for again.
    """
    return is_there() and not is_held(path) and is_there()


def try_lock(descriptor: int) -> bool:
    """Lock an open file for this process if it is free, and return whether that succeeded."""
    return bool(lock_descriptor(descriptor, blocking=False))


def _try_lock_shared(descriptor: int) -> bool:
    if sys.platform == "win32":  # pragma: no cover
        return try_lock(descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def show_use(descriptor: int) -> None:
    """Let other processes see, by :func:`is_in_use`, that a file is open here, until it is closed.

    Does nothing where the system or the file system cannot show it.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _whole_file(fcntl.F_RDLCK))


def is_in_use(path: str) -> bool:
    """Return whether any process shows by :func:`show_use` that it has a file open.

    Through whatever mount: the lock is one of the inode. Looking takes no lock.
    """
    if sys.platform != "linux":  # pragma: no cover
        return False
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        found = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _whole_file(fcntl.F_WRLCK))
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return int(struct.unpack(_FLOCK, found)[0]) != fcntl.F_UNLCK


def _whole_file(kind: int) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, 0, 0, 0)


def describe_holder() -> bytes:
    """Return what a lock holder writes into the file: its process, host, and the time."""
    holder = f"\n{os.getpid()} {time.time():.6f} {_HOST}\n"
    return holder.encode(errors="replace").ljust(_HOLDER_BYTES)


def read_holder(path: str) -> LockHolder | None:
    """Return the last holder, as the lock file names it; ``None`` if that is unreadable."""
    try:
        with open(path, "rb") as file:
            file.seek(_HOLDER_OFFSET)
            pid, since, host = file.read(_HOLDER_BYTES).split()
        return LockHolder(int(pid), host.decode(), datetime.fromtimestamp(float(since), UTC))
    except (OSError, ValueError, OverflowError):
        return None
