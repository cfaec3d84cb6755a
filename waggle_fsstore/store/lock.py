# SPDX-License-Identifier: Apache-2.0
"""The store lock: one writer at a time, over all threads and processes.

The lock file is permanent: it is never removed and never taken over because of its
age. The operating system frees the lock of a process that dies. One descriptor stays
open, because locking it takes a microsecond, where opening the file each time takes a
hundred.
"""

import os
import platform
import random
import threading
import time
import weakref
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, TypeVar

from filelock import lock_descriptor, unlock_descriptor

from waggle_fsstore.domain.errors import LockHolder, LockTimeoutError
from waggle_fsstore.store import disk

# Waiting for another process: short at first, because most changes take well under a
# millisecond, and never long, because a fixed 50 ms costs a third of the throughput.
_SHORTEST_WAIT: Final = 0.0001
_LONGEST_WAIT: Final = 0.005

# Windows locks the first byte against readers too, so who holds it stands after that.
_HOLDER_OFFSET: Final = 1
_HOLDER_BYTES: Final = 400
_HOST: Final = "_".join(platform.node().split()) or "localhost"

_T = TypeVar("_T")


class StoreLock:
    """The lock of one open store. ``timeout`` is in seconds.

    ``make_folder`` is called when the folder of the lock file is missing. Without it the
    lock is passive: it keeps writers out, but neither makes the lock file nor writes to
    it, and so works on a read-only file system.
    """

    def __init__(
        self, path: str, *, timeout: float, make_folder: Callable[[], object] | None = None
    ) -> None:
        if not 0 <= timeout <= threading.TIMEOUT_MAX:
            raise ValueError(f"lock_timeout: {timeout!r} is not a number of seconds")
        self._file = disk.PermanentFile(path, writable=make_folder is not None)
        self._timeout = timeout
        self._make_folder = make_folder
        self._threads = threading.RLock()
        self._locked = False
        self._generation = 0
        _open_locks.add(self)

    @property
    def generation(self) -> int:
        """Changes whenever the lock file was opened anew: what was known of the store is void."""
        return self._generation

    @property
    def locked(self) -> bool:
        """Whether this object holds the lock; not so in a child forked while it did."""
        return self._locked

    def run(self, work: Callable[[], _T]) -> _T:
        """What ``work`` returns, done while this thread of this process alone holds the lock.

        Raises :class:`LockTimeoutError`; ``RuntimeError`` where the thread holds it
        already, in a signal handler for one; a passive lock ``FileNotFoundError`` when
        there is no lock file.
        """
        if self._is_mine():
            raise RuntimeError("this thread is in the middle of a change of the same store")
        # Ctrl-C can come between any two instructions, also where the first release begins:
        # hence the second one. It must never leave the lock taken.
        try:
            try:
                self._acquire()
                return work()
            finally:
                self._release()
        finally:
            self._release()

    def close(self) -> None:
        """Release the descriptor, once no thread holds the lock."""
        if not self._threads.acquire(timeout=self._timeout):
            raise self._timed_out()
        try:
            self._release_file()
        finally:
            self._threads.release()

    def _is_mine(self) -> bool:
        # As threading.Condition asks it. A flag of our own could miss an interrupt.
        return bool(self._threads._is_owned())  # type: ignore[attr-defined]

    def _acquire(self) -> None:
        deadline = time.monotonic() + self._timeout
        if not self._threads.acquire(timeout=self._timeout):
            raise self._timed_out()
        while True:
            descriptor = self._open()
            self._wait(descriptor, deadline)
            self._locked = True
            if self._file.is_in_place():
                break
            self._release_file()  # Two processes would hold two locks.
        if self._make_folder is not None:
            self._file.overwrite(_describe_holder())

    def _release(self) -> None:
        """Let go of what this thread holds: all of it, a part of it, or nothing."""
        if not self._is_mine():
            return  # Also in a child that was forked meanwhile: the lock is the parent's.
        try:
            if self._locked:
                unlock_descriptor(self._file.open()[0])
                self._locked = False
            else:
                self._release_file()  # An interrupt may have hidden that it was locked.
        except BaseException:
            self._release_file()
            raise
        finally:
            self._threads.release()

    def _open(self) -> int:
        try:
            descriptor, is_new = self._file.open()
        except FileNotFoundError:
            if self._make_folder is None:
                raise
            self._make_folder()
            descriptor, is_new = self._file.open()
        self._generation += is_new
        return descriptor

    def _wait(self, descriptor: int, deadline: float) -> None:
        pause = _SHORTEST_WAIT
        while not lock_descriptor(descriptor, blocking=False):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise self._timed_out()
            # Spread out, so that waiting processes do not wake in step.
            time.sleep(min(remaining, pause * random.uniform(0.5, 1.0)))  # noqa: S311  # no secret
            pause = min(pause * 2, _LONGEST_WAIT)

    def _release_file(self) -> None:
        """Close the file, which frees the lock with it."""
        self._locked = False
        self._file.close()

    def _timed_out(self) -> LockTimeoutError:
        return LockTimeoutError(self._file.path, _read_holder(self._file.path), self._timeout)

    def _forget_after_fork(self) -> None:
        """In a child: never unlock, which would unlock the parent; only let go."""
        self._threads = threading.RLock()
        self._release_file()


_open_locks: "weakref.WeakSet[StoreLock]" = weakref.WeakSet()


def _forget_all_after_fork() -> None:
    for lock in list(_open_locks):
        lock._forget_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all_after_fork)


def _describe_holder() -> bytes:
    return f"\n{os.getpid()} {time.time():.6f} {_HOST}\n".encode().ljust(_HOLDER_BYTES)


def _read_holder(path: str) -> LockHolder | None:
    """Who wrote the lock file last; ``None`` if that cannot be read."""
    try:
        with open(path, "rb") as file:
            file.seek(_HOLDER_OFFSET)
            pid, since, host = file.read(_HOLDER_BYTES).split()
        return LockHolder(int(pid), host.decode(), datetime.fromtimestamp(float(since), UTC))
    except (OSError, ValueError, OverflowError):
        return None
