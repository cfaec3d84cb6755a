# SPDX-License-Identifier: Apache-2.0
"""Stands in for ``os`` inside disk.py: performs and records each operation that changes files.

Calls of fsync are only recorded: what they are worth is for the model to say, and the tests need
no device that keeps anything.
"""

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from waggle_fsstore.store.fs import disk, lock

#: A path below the watched directory, ``""`` for that directory itself.
RelativePath = str


@dataclass(frozen=True, slots=True)
class Create:
    """A new empty file under a name that was free."""

    path: RelativePath
    inode: int


@dataclass(frozen=True, slots=True)
class MakeDirectory:
    """A new directory."""

    path: RelativePath
    inode: int


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes written into a file at an offset."""

    inode: int
    offset: int
    data: bytes

    def __repr__(self) -> str:
        return f"Write(inode={self.inode}, offset={self.offset}, bytes={len(self.data)})"


@dataclass(frozen=True, slots=True)
class Resize:
    """A file cut off, or made longer by NULs."""

    inode: int
    size: int


@dataclass(frozen=True, slots=True)
class Fsync:
    """A file, or the names in a directory, made durable."""

    inode: int


@dataclass(frozen=True, slots=True)
class FailedFsync:
    """An fsync that reported an error: what is durable is unknown, and no later one repairs it."""

    inode: int


@dataclass(frozen=True, slots=True)
class Syncfs:
    """All files and directories made durable."""


@dataclass(frozen=True, slots=True)
class Rename:
    """A name given to another file, in one step."""

    source: RelativePath
    target: RelativePath


@dataclass(frozen=True, slots=True)
class Unlink:
    """A name taken away."""

    path: RelativePath


@dataclass(frozen=True, slots=True)
class Mark:
    """No operation: what the caller of the store knows from here on."""

    note: Any


Operation = (
    Create | MakeDirectory | Write | Resize | Fsync | FailedFsync | Syncfs | Rename | Unlink | Mark
)

#: Calls that the model does not know. Before disk.py uses one, add it to the model.
_UNKNOWN = frozenset(
    {
        *("write", "writev", "pwritev", "sendfile", "copy_file_range", "splice", "truncate"),
        *("link", "symlink", "rename", "renames", "remove", "rmdir", "removedirs", "makedirs"),
        *("mknod", "mkfifo", "sync"),
    }
)


class RecordingOs:
    """Forwards everything to ``os``, and notes what changes the files below a directory.

    ``known`` says which inode of the model each file is that is there already; new ones
    are counted from ``first``.
    """

    def __init__(
        self, directory: Path, *, known: Mapping[RelativePath, int] | None = None, first: int = 1
    ) -> None:
        self.operations: list[Operation] = []
        #: Whether the file system supports syncfs.
        self.can_syncfs = True
        self._folder = os.path.realpath(directory)
        self._numbers = count(first)
        self._inodes: dict[tuple[int, int], int] = {}
        self._failures: dict[str, int] = {}
        self._is_read_only = False
        for path, inode in {"": 0, **(known or {})}.items():
            self._note_inode(os.stat(os.path.join(self._folder, path)), inode)

    def mark(self, note: Any) -> None:
        """Note what the caller of the store knows from here on."""
        self.operations.append(Mark(note))

    def fail_next(self, call: str, code: int = errno.EIO) -> None:
        """Have the next call of this name fail."""
        self._failures[call] = code

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Have all calls fail that would change something."""
        self._is_read_only = True
        try:
            yield
        finally:
            self._is_read_only = False

    @property
    def has_failed(self) -> bool:
        """Whether all calls that were to fail have been made."""
        return not self._failures

    def __getattr__(self, name: str) -> Any:
        assert name not in _UNKNOWN, f"os.{name}: the model of a crash does not know this call"
        return getattr(os, name)

    def open(self, path: str, flags: int, mode: int = 0o777) -> int:
        existed = os.path.lexists(path)
        self._spoil("open", changes=flags & os.O_ACCMODE != os.O_RDONLY)
        descriptor = os.open(path, flags, mode)
        if not existed:
            inode = self._note_inode(os.fstat(descriptor), next(self._numbers))
            self._record(Create(self._relative(path), inode))
        elif flags & os.O_TRUNC:
            self._record(Resize(self._inode(descriptor), 0))
        return descriptor

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> int:
        self._spoil("pwrite")
        written = os.pwrite(descriptor, data, offset)
        self._record(Write(self._inode(descriptor), offset, bytes(data[:written])))
        return written

    def posix_fallocate(self, descriptor: int, offset: int, size: int) -> None:
        self._spoil("posix_fallocate")
        before = os.fstat(descriptor).st_size
        os.posix_fallocate(descriptor, offset, size)
        if offset + size > before:
            self._record(Resize(self._inode(descriptor), offset + size))

    def ftruncate(self, descriptor: int, size: int) -> None:
        self._spoil("ftruncate")
        os.ftruncate(descriptor, size)
        self._record(Resize(self._inode(descriptor), size))

    def fdatasync(self, descriptor: int) -> None:
        self._sync("fdatasync", descriptor)

    def fsync(self, descriptor: int) -> None:
        self._sync("fsync", descriptor)

    def syncfs(self, descriptor: int) -> None:
        self._spoil("syncfs", changes=False)
        os.fstat(descriptor)
        self._record(Syncfs())

    def replace(self, source: str, target: str) -> None:
        self._spoil("replace")
        os.replace(source, target)
        self._record(Rename(self._relative(source), self._relative(target)))

    def unlink(self, path: str) -> None:
        self._spoil("unlink")
        os.unlink(path)
        self._record(Unlink(self._relative(path)))

    def mkdir(self, path: str, mode: int = 0o777) -> None:
        self._spoil("mkdir", changes=not os.path.lexists(path))
        os.mkdir(path, mode)
        inode = self._note_inode(os.stat(path), next(self._numbers))
        self._record(MakeDirectory(self._relative(path), inode))

    def _sync(self, call: str, descriptor: int) -> None:
        status = os.fstat(descriptor)
        inode = self._inodes.get((status.st_dev, status.st_ino))
        if inode is None:
            return  # A directory above the watched one.
        try:
            self._spoil(call, changes=False)
        except OSError:
            self._record(FailedFsync(inode))
            raise
        self._record(Fsync(inode))

    def _record(self, operation: Operation) -> None:
        if not self._is_read_only:  # Then only fsyncs of what is durable come here.
            self.operations.append(operation)

    def _spoil(self, call: str, *, changes: bool = True) -> None:
        code = errno.EROFS if self._is_read_only and changes else self._failures.pop(call, 0)
        if code:
            raise OSError(code, os.strerror(code))

    def _note_inode(self, status: os.stat_result, inode: int) -> int:
        # The system gives the number of a file that is gone to a new one.
        self._inodes[status.st_dev, status.st_ino] = inode
        return inode

    def _inode(self, descriptor: int) -> int:
        status = os.fstat(descriptor)
        return self._inodes[status.st_dev, status.st_ino]

    def _relative(self, path: str) -> RelativePath:
        relative = os.path.relpath(path, self._folder)
        assert not relative.startswith(os.pardir), f"{path} is outside of the watched directory"
        return "" if relative == os.curdir else relative


@contextmanager
def recording(recorder: RecordingOs) -> Iterator[None]:
    """Have disk.py work through a recorder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk, "os", recorder)
        patch.setattr(disk, "_syncfs", recorder.syncfs)
        patch.setattr(disk, "can_syncfs", lambda _: recorder.can_syncfs)
        # The lock holder is described at each lock, and not as time has it: states have names.
        patch.setattr(lock, "file_clock", lambda: 0)
        yield
