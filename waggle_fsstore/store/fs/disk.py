# SPDX-License-Identifier: Apache-2.0
"""Disk: the only module that changes the files of a store.

A file appears under its name whole or not at all: it is written under another name, then
renamed. It is durable once the file and its directory are synced; until then the journal,
the one file that lines are appended to, keeps the contents of a document.
"""

import errno
import itertools
import os
import stat
import sys
import warnings
from contextlib import suppress
from types import BuiltinFunctionType
from typing import Final

from waggle_fsstore.domain.at_fork import register_at_fork
from waggle_fsstore.domain.clock import monotonic
from waggle_fsstore.domain.histogram import OF_A_DISK, Histogram
from waggle_fsstore.store.fs.linux import TimelessStatus, can_syncfs, timeless_status
from waggle_fsstore.store.fs.linux import syncfs as _syncfs
from waggle_fsstore.store.fs.windows import retry_on_sharing_violation

FILE_MODE: Final = 0o600
DIR_MODE: Final = 0o700

_TEMP_SUFFIX: Final = ".tmp"
_SEPARATOR: Final = os.sep

# Windows lacks them.
_NO_FOLLOW: Final[int] = getattr(os, "O_NOFOLLOW", 0)
_NO_BLOCK: Final[int] = getattr(os, "O_NONBLOCK", 0)
_BINARY: Final[int] = getattr(os, "O_BINARY", 0)
_WRITE: Final = os.O_RDWR | _NO_FOLLOW | _NO_BLOCK | _BINARY
_NEW: Final = os.O_CREAT | os.O_EXCL
_READ: Final = os.O_RDONLY | _NO_FOLLOW | _NO_BLOCK | _BINARY

_HAS_PWRITE: Final = hasattr(os, "pwrite")

_STANDARD_ERROR: Final = 2

# man 2 stat: what st_blocks counts, whatever the blocks of the file system are.
_UNIT_BYTES: Final = 512

#: The answers of a file system that cannot sync a directory, such as NFS and some of FUSE, or
#: any file, such as the read-only ones of disk images.
NO_SYNC: Final = frozenset({errno.EINVAL, errno.ENOTSUP})

# The answers of one that cannot reserve blocks, where the C library does not write them.
_NO_ALLOCATION: Final = frozenset({errno.EINVAL, errno.ENOTSUP, errno.ENOSYS})

# The answers of one without modes, such as FAT or a share, where it does not ignore them.
_NO_MODES: Final = frozenset({errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.ENOSYS})

#: The answers of a full disk, or of one where this user has no more room.
NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

#: Syncing one file costs as much as syncing some hundreds together.
SYNCFS_THRESHOLD_FILES: Final = 64


class Disk:
    """Changes files. ``durable=False`` skips every sync, for tests that want speed."""

    __slots__ = ("_new_files", "durable", "syncs")

    def __init__(self, *, durable: bool) -> None:
        self.durable = durable
        #: How long the syncs took that succeeded.
        self.syncs = Histogram(OF_A_DISK)
        #: The owner and the mode that the system gives to new documents; ``None`` if unknown.
        self._new_files: tuple[int, int] | None = None

    def write_temp(
        self,
        path: str,
        data: bytes,
        mode: int = FILE_MODE,
        *,
        directory: TimelessStatus | None = None,
        sync: bool = True,
    ) -> None:
        """Write a new file, and sync it unless the journal keeps its contents.

        Root gives it to the owner of a ``directory`` with this status, by default of the one that
        it is in. ``directory`` says, too, that the system gives this file the owner and the mode of
        the last one that was written with it, until :meth:`look_again`. No file is left when this
        raises an ``OSError``.
        """
        descriptor = _open(path, _NEW)
        try:
            try:
                new = self._new_files if directory else None
                if new is None:
                    status = os.fstat(descriptor)
                    new = status.st_uid, status.st_mode
                    self._new_files = new if directory else None
                _make_private(descriptor, path, new, mode, directory)
                _allocate(descriptor, len(data))
                write(descriptor, data)
                if sync:
                    self.sync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            self.discard(path)
            name_file(error, path)
            raise

    def look_again(self) -> None:
        """Look at the next new file: the process may have got another user or umask."""
        self._new_files = None

    def write_atomic(
        self, path: str, data: bytes, temp_dir: str, *, mode: int = FILE_MODE, sync: bool = True
    ) -> None:
        """Write a file, or replace one, by a temp file in ``temp_dir`` and a rename.

        The caller syncs the directory of ``path``. When this raises an ``OSError``, the old
        file is unchanged, and no temp file is left.
        """
        temp = temp_path(temp_dir)
        self.write_temp(temp, data, mode, sync=sync)
        try:
            self.replace(temp, path)
        except OSError:
            self.discard(temp)
            raise

    def discard(self, path: str) -> None:
        """Remove a temp file if possible; if not, the next writer clears it."""
        with suppress(OSError):
            os.unlink(path)

    def replace(self, source: str, target: str) -> None:
        """Rename a file atomically, over another one if ``target`` exists."""
        if sys.platform == "win32":  # pragma: no cover
            retry_on_sharing_violation(lambda: os.replace(source, target))
        else:
            os.replace(source, target)

    def remove(self, path: str) -> None:
        """Remove a file."""
        os.unlink(path)

    def remove_dir(self, path: str) -> None:
        """Remove an empty directory."""
        os.rmdir(path)

    def sync(self, descriptor: int) -> None:
        """Make durable what was written to an open file."""
        if not self.durable:
            return
        begun = monotonic()
        if sys.platform == "darwin":  # pragma: no cover
            import fcntl

            # There, fsync leaves the data in the cache of the device: man 2 fcntl.
            try:
                fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            except OSError as error:
                if error.errno not in (errno.ENOTSUP, errno.EINVAL, errno.ENOTTY):
                    raise
                os.fsync(descriptor)
        elif hasattr(os, "fdatasync"):
            os.fdatasync(descriptor)
        else:  # pragma: no cover
            os.fsync(descriptor)
        self.syncs.add(monotonic() - begun)

    def sync_dir(self, path: str) -> None:
        """Make durable the names in a directory: what was created, renamed and removed in it.

        Does nothing on Windows, which has no such call. Warns where the file system has none.
        """
        if not self.durable or sys.platform == "win32":
            return
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        begun = monotonic()
        try:
            os.fsync(descriptor)
            self.syncs.add(monotonic() - begun)
        except OSError as error:
            if error.errno not in NO_SYNC:
                name_file(error, path)
                raise
            warnings.warn(
                f"{path}: this file system cannot sync a directory, so a power cut may undo "
                "the latest changes",
                RuntimeWarning,
                stacklevel=2,
            )
        finally:
            os.close(descriptor)

    def sync_file(self, path: str) -> None:
        """Make durable what any process has written to a file, if the file exists."""
        if not self.durable:
            return
        try:
            descriptor = os.open(path, _READ)
        except FileNotFoundError:
            return
        try:
            self.sync(descriptor)
        except OSError as error:
            name_file(error, path)
            raise
        finally:
            os.close(descriptor)

    def sync_filesystem(self, descriptor: int, path: str) -> bool:
        """Make durable all that was written to the file system of an open directory.

        Returns whether this file system supports it: there, it costs a fraction of syncing
        many files one by one. Reports the errors since the directory was opened (man 2
        syncfs, Linux 5.8).
        """
        if not self.durable:
            return True
        if not can_syncfs(path):
            return False
        begun = monotonic()
        try:
            _syncfs(descriptor)
        except OSError as error:
            name_file(error, path)
            raise
        self.syncs.add(monotonic() - begun)
        return True

    def truncate(self, descriptor: int, size: int) -> None:
        """Cut an open file off at ``size`` bytes, without a sync."""
        os.ftruncate(descriptor, size)

    def allocate(self, path: str, size: int) -> None:
        """Reserve blocks for a file of ``size`` bytes whose contents mean nothing."""
        descriptor = open_to_write(path, os.O_CREAT)
        try:
            if not _allocate(descriptor, size):  # pragma: no cover
                write(descriptor, bytes(size))
        finally:
            os.close(descriptor)

    def give_up(self, path: str, kept: int) -> None:
        """Free the blocks of a file behind ``kept`` bytes, and leave its size."""
        descriptor = open_to_write(path)
        try:
            size = os.fstat(descriptor).st_size
            os.ftruncate(descriptor, kept)
            os.ftruncate(descriptor, size)
        finally:
            os.close(descriptor)

    def make_dir(self, path: str) -> None:
        """Make a private directory, and missing parents, each durable in its own parent.

        Leaves an existing directory as it is. Raises ``NotADirectoryError`` for anything else
        at the path, even a symbolic link to a directory: the store stays within its root.
        """
        try:
            try:
                os.mkdir(path, DIR_MODE)
            except FileNotFoundError:
                self.make_dir(os.path.dirname(path))
                os.mkdir(path, DIR_MODE)  # Raises where no directory can be made, as in /proc.
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                raise NotADirectoryError(
                    errno.ENOTDIR, "must be a directory: move this file or link away", path
                ) from None
            return
        if not _set_mode(path, DIR_MODE):  # The umask may have taken our own rights.
            warnings.warn(
                f"{path}: this file system keeps no modes, so other users may have access: "
                "restrict it where it is mounted",
                RuntimeWarning,
                stacklevel=2,
            )
        if os.lstat(path).st_uid == 0:
            _inherit_owner(path, path)
        self.sync_dir(os.path.dirname(path))

    def clear_temp_files(self, directory: str) -> None:
        """Remove the temp files that dead writers left in a directory."""
        for name in os.listdir(directory):
            if name.endswith(_TEMP_SUFFIX):
                with suppress(OSError):  # A temp file that stays does no harm.
                    os.unlink(os.path.join(directory, name))


def sizes_of(path: str) -> tuple[int, int]:
    """Return the size of a file, and how much of the disk it takes, in bytes; zeros without one."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return 0, 0
    size = status.st_size
    return size, getattr(status, "st_blocks", size // _UNIT_BYTES) * _UNIT_BYTES


def free_bytes(path: str) -> int:
    """Return how many bytes are free on the file system of a path; a lot where that is unknown."""
    if not hasattr(os, "statvfs"):  # pragma: no cover
        return sys.maxsize
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def mode_of(path: str) -> int:
    """Return the permission bits of a file; those of a new one if it is gone."""
    try:
        return stat.S_IMODE(os.lstat(path).st_mode)
    except FileNotFoundError:
        return FILE_MODE


def temp_path(directory: str) -> str:
    """Return an unused path that :meth:`Disk.clear_temp_files` recognises."""
    names = _temp_names
    return f"{directory}{_SEPARATOR}{names.process}{next(names.numbers)}{_TEMP_SUFFIX}"


class _TempNames:
    """Names that no other process gives: numbers after the random name of this process."""

    def __init__(self) -> None:
        self.reset_after_fork()
        register_at_fork(self)

    def reset_after_fork(self) -> None:
        self.process = f"{os.urandom(5).hex()}-"
        self.numbers = itertools.count()


_temp_names: Final = _TempNames()


def open_to_write(path: str, flags: int = 0) -> int:
    """Open a file to read and write it. A new one is private, and owned as its directory is."""
    descriptor = _open(path, flags)
    if flags & os.O_CREAT:
        try:
            status = os.fstat(descriptor)
            _make_private(descriptor, path, (status.st_uid, status.st_mode), FILE_MODE)
        except BaseException:
            os.close(descriptor)
            raise
    return descriptor


def write(descriptor: int, data: bytes, offset: int = 0) -> None:
    """Write all of ``data`` to an open file at an offset.

    One system call may write less, on a full disk or at a limit.
    """
    while True:
        if _HAS_PWRITE:
            written = os.pwrite(descriptor, data, offset)
        else:  # pragma: no cover
            os.lseek(descriptor, offset, os.SEEK_SET)
            written = os.write(descriptor, data)
        if written == len(data):
            break
        if written == 0:
            raise OSError(errno.EIO, "nothing could be written")
        data = data[written:]
        offset += written


def name_file(error: OSError, path: str) -> None:
    """Add the file name to the error of a call that was given only a descriptor."""
    if error.filename is None:
        error.filename = path


def _open(path: str, flags: int) -> int:
    descriptor = os.open(path, _WRITE | flags, FILE_MODE)
    if not isinstance(os.open, BuiltinFunctionType):
        _refuse_another_file(descriptor, path)
    return descriptor if descriptor > _STANDARD_ERROR else _move_up(descriptor)


def _make_private(
    descriptor: int,
    path: str,
    given: tuple[int, int],
    mode: int,
    directory: TimelessStatus | None = None,
) -> None:
    """Set the mode and the owner of a new file where the system has ``given`` others."""
    owner, given_mode = given
    # The umask may have taken our own rights.
    if (mode != FILE_MODE or given_mode & FILE_MODE != FILE_MODE) and hasattr(os, "fchmod"):
        _set_mode(descriptor, mode)
    if owner == 0:
        _inherit_owner(descriptor, path, directory)


def _refuse_another_file(descriptor: int, path: str) -> None:
    """Raise unless the descriptor is that of the file at the path; leave it open then.

    Tests may replace ``os.open`` by a simulation with its own numbers, and not ``os.pwrite``: a
    write would go to the real file that has this number. Because all of ``os`` may be simulated,
    the module below it answers.
    """
    if sys.platform == "win32":  # pragma: no cover
        return
    import posix

    with suppress(OSError):
        if os.path.samestat(posix.fstat(descriptor), posix.lstat(path)):
            return
    raise OSError(
        errno.EBADF,
        "a simulated os.open, such as that of pyfakefs, opened another file than this one: pause "
        "the simulation while a FileStore is used, or use a MemoryStore",
        path,
    )


def _move_up(descriptor: int) -> int:
    """Return another descriptor for a file that got the number of a standard stream.

    In a program with closed standard streams, a message to one of them would go into the file.
    """
    if sys.platform == "win32":  # pragma: no cover
        return descriptor
    import fcntl

    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _STANDARD_ERROR + 1)
    finally:
        os.close(descriptor)


def _allocate(descriptor: int, size: int) -> bool:
    """Reserve the blocks, so that a full disk raises here; return whether that is supported.

    On ext4 the rename is faster too: it writes blocks at once that are not allocated yet.
    """
    if not size or not hasattr(os, "posix_fallocate"):
        return False
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in _NO_ALLOCATION:
            raise
        return False
    return True


def _set_mode(file: str | int, mode: int) -> bool:
    """Set the mode of a file that this process has made; return whether there are modes here."""
    try:
        if isinstance(file, int):
            os.fchmod(file, mode)
        else:
            os.chmod(file, mode)
    except OSError as error:
        if error.errno not in _NO_MODES:
            raise
        return False
    return True


def _inherit_owner(file: str | int, path: str, directory: TimelessStatus | None = None) -> None:
    """Give what root has made to the owner of a directory, by default its own, where root may.

    Otherwise one ``sudo`` of an operator leaves a file that the service may not read.
    """
    directory = directory or timeless_status(os.path.dirname(path))
    if directory.st_uid != 0:
        with suppress(OSError):
            os.chown(file, directory.st_uid, directory.st_gid)
