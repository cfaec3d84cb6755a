# SPDX-License-Identifier: Apache-2.0
"""Emptying and measuring directories that programs of an environment may still change.

Directories can be nested to any depth, so nothing here recurses, and few descriptors are open
at a time. No link is followed: each directory is opened relative to the descriptor of its
parent. No mount is entered: see :func:`remove_tree`.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from waggle_fsstore.provider.workspace_dirs import DIR_MODE

_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW

# Another process may empty the same directory, or a program may still write to it.
_MAX_PASSES = 5

_BLOCK_BYTES = 512  # The unit of st_blocks.

# What an entry counts at least: an inode is room too.
_MIN_BLOCKS = 8


class StoppedError(Exception):
    """The removal of a tree was stopped before its end."""


def remove_tree(path: str, is_stopping: Callable[[], bool] = lambda: False) -> None:
    """Remove a directory with all contents, a file, or a link; a missing path is no error.

    Each directory is moved to the top of the tree before it is entered, so that the depth
    does not matter. The kernel refuses to move a mount point (rename(2), EBUSY), so a mounted
    file system is never entered, whatever device it is on. Removes all that it can, then raises
    the first ``OSError``. Raises :class:`StoppedError` once ``is_stopping`` returns true.
    """
    try:
        top = _open_directory(path)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        with suppress(FileNotFoundError):
            os.unlink(path)
        return
    with _closing(top):
        tree = _Tree(top, is_stopping)
        for _ in range(_MAX_PASSES):
            tree.empty()
            if tree.failure is not None:
                raise tree.failure
            try:
                os.rmdir(path)
            except FileNotFoundError:
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                failure = error
            else:
                return
        raise failure


class _Tree:
    """The contents of a directory that is being emptied."""

    def __init__(self, top: int, is_stopping: Callable[[], bool]) -> None:
        self._top = top
        self._is_stopping = is_stopping
        self._prefix = os.urandom(8).hex()
        self._count = 0
        self._waiting: list[str] = []  # Names in the top directory.
        self.failure: OSError | None = None

    def empty(self) -> None:
        """Remove everything; keep the first failure, and continue."""
        self._waiting = os.listdir(self._top)
        while self._waiting:
            name = self._waiting.pop()
            with self._keeping_failure():
                if _is_directory(name, self._top):
                    self._remove_directory(name)
                else:
                    os.unlink(name, dir_fd=self._top)

    def _remove_directory(self, name: str) -> None:
        is_moved = name.startswith(self._prefix)
        moved = name if is_moved else self._move_up(name, self._top)
        with _closing(_open_directory(moved, self._top)) as directory:
            # Scanned first: what a scan returns of a directory that changes is not defined.
            with os.scandir(directory) as entries:
                found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
            for child, is_directory in found:
                with self._keeping_failure():
                    if is_directory:
                        self._waiting.append(self._move_up(child, directory))
                    else:
                        os.unlink(child, dir_fd=directory)
        os.rmdir(moved, dir_fd=self._top)

    def _move_up(self, name: str, parent: int) -> str:
        """Move a directory to the top under a new name, and return that."""
        self._count += 1
        new = f"{self._prefix}-{self._count}"
        try:
            os.rename(name, new, src_dir_fd=parent, dst_dir_fd=self._top)
        except PermissionError:
            # A directory that is not writable keeps its parent. Once it is renamed where it
            # is, it is no mount point, so the mode is that of a directory of this tree.
            os.rename(name, new, src_dir_fd=parent, dst_dir_fd=parent)
            os.chmod(new, DIR_MODE, dir_fd=parent, follow_symlinks=False)
            if parent != self._top:
                os.rename(new, new, src_dir_fd=parent, dst_dir_fd=self._top)
        return new

    @contextmanager
    def _keeping_failure(self) -> Iterator[None]:
        if self._is_stopping():
            raise StoppedError
        try:
            yield
        except FileNotFoundError:
            pass  # Another process removed it.
        except OSError as error:
            self.failure = self.failure or error


def disk_usage(path: str) -> int:
    """Return how many bytes a directory and all below it take on the disk.

    What cannot be read counts nothing. Follows no link and leaves the device at no place.
    """
    total = 0
    for directory, below in directories(path):
        size, found = _measure_one(directory)
        total += size
        below += found
    return total


def directories(path: str) -> Iterator[tuple[int, list[str]]]:
    """Yield a descriptor of a directory, and a list to add the names of those below it to.

    Continues with those names, to any depth, with one descriptor at a time. Follows no link and
    leaves the device at no place; what cannot be entered is left out.
    """
    try:
        current = os.open(path, _DIRECTORY_FLAGS)
    except OSError:
        return
    device = os.fstat(current).st_dev
    # The directories from the top down to the current one: which each is, and which of its
    # subdirectories are still to be entered.
    trail: list[tuple[tuple[int, int], list[str]]] = []
    try:
        step: str | None = "."
        while step is not None:
            entered = _enter(current, step, device)
            if entered is not None:
                os.close(current)
                current = entered
                if step == "..":
                    trail.pop()
                    if _identity(current) != trail[-1][0]:
                        break  # Moved by another program: its parent is not ours.
                else:
                    below: list[str] = []
                    trail.append((_identity(current), below))
                    yield current, below
            elif step == "..":
                break
            waiting = trail[-1][1] if trail else []
            step = waiting.pop() if waiting else ".." if len(trail) > 1 else None
    finally:
        os.close(current)


def _measure_one(directory: int) -> tuple[int, list[str]]:
    """Return the size of a directory and of its files, and the names of its subdirectories."""
    size, below = os.fstat(directory).st_blocks, []
    with os.scandir(directory) as entries:
        for entry in entries:
            with suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    below.append(entry.name)
                else:
                    blocks = entry.stat(follow_symlinks=False).st_blocks
                    size += max(blocks, _MIN_BLOCKS)
    return size * _BLOCK_BYTES, below


def _enter(directory: int, name: str, device: int) -> int | None:
    """Open a subdirectory or the parent; return ``None`` if that is not possible."""
    try:
        entered = os.open(name, _DIRECTORY_FLAGS, dir_fd=directory)
    except PermissionError:
        try:
            mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
            entered = _open_directory(name, directory)
            os.fchmod(entered, stat.S_IMODE(mode))
        except OSError:
            return None
    except OSError:
        return None
    if os.fstat(entered).st_dev != device:
        os.close(entered)
        return None
    return entered


def _identity(directory: int) -> tuple[int, int]:
    status = os.fstat(directory)
    return status.st_dev, status.st_ino


def _is_directory(name: str, parent: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)


def _open_directory(name: str, parent: int | None = None) -> int:
    """Open a directory that was moved here, and make it writable for its user."""
    try:
        directory = os.open(name, _DIRECTORY_FLAGS, dir_fd=parent)
    except PermissionError:
        os.chmod(name, DIR_MODE, dir_fd=parent, follow_symlinks=False)
        directory = os.open(name, _DIRECTORY_FLAGS, dir_fd=parent)
    try:
        if os.fstat(directory).st_mode & DIR_MODE != DIR_MODE:
            os.fchmod(directory, DIR_MODE)
    except BaseException:
        os.close(directory)
        raise
    return directory


@contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)
