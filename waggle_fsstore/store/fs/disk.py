# SPDX-License-Identifier: Apache-2.0
"""Where bytes hit the disk: the only module that changes the files of a store.

A file appears under its name whole or not at all: it is written under another name, and
renamed. It is durable once it and its folder were flushed; until then the journal, the one
file that lines are added to, keeps what is in a document.
"""

import errno
import os
import stat
import sys
import warnings
from contextlib import suppress
from typing import Final

from waggle_fsstore.store.fs.linux import can_syncfs
from waggle_fsstore.store.fs.linux import syncfs as _syncfs
from waggle_fsstore.store.fs.windows import retry_on_sharing_violation

FILE_MODE: Final = 0o600
DIR_MODE: Final = 0o700

_TEMP_SUFFIX: Final = ".tmp"

# Absent on Windows, where there is nothing like them.
_NO_FOLLOW: Final[int] = getattr(os, "O_NOFOLLOW", 0)
_NO_BLOCK: Final[int] = getattr(os, "O_NONBLOCK", 0)
_BINARY: Final[int] = getattr(os, "O_BINARY", 0)
_WRITE: Final = os.O_RDWR | _NO_FOLLOW | _NO_BLOCK | _BINARY
_READ: Final = os.O_RDONLY | _NO_FOLLOW | _NO_BLOCK | _BINARY

_HAS_PWRITE: Final = hasattr(os, "pwrite")

_STANDARD_ERROR: Final = 2

# A file system that cannot flush a folder (NFS, some of FUSE) says so with one of these.
_NO_DIR_SYNC: Final = frozenset({errno.EINVAL, errno.ENOTSUP})

# One that cannot reserve blocks answers so where the C library does not do it by writing.
_NO_ALLOCATION: Final = frozenset({errno.EINVAL, errno.ENOTSUP, errno.ENOSYS})


class Disk:
    """Changes files. With ``durable=False`` it flushes nothing, for tests that want speed."""

    __slots__ = ("durable",)

    def __init__(self, *, durable: bool) -> None:
        self.durable = durable

    def write_temp(
        self, path: str, data: bytes, mode: int = FILE_MODE, *, sync: bool = True
    ) -> None:
        """Write a new file, and flush it unless the journal keeps its contents.

        Nothing of it is left when this raises an ``OSError``.
        """
        descriptor = open_to_write(path, os.O_CREAT | os.O_EXCL)
        try:
            try:
                if mode != FILE_MODE and hasattr(os, "fchmod"):
                    os.fchmod(descriptor, mode)
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

    def write_atomic(
        self, path: str, data: bytes, temp_dir: str, *, mode: int = FILE_MODE, sync: bool = True
    ) -> None:
        """Put a file in place, or replace one, by a temp file in ``temp_dir`` and a rename.

        The directory of ``path`` is not synced. Nothing is left of the temp file, and the old
        file stays, when this raises an ``OSError``.
        """
        temp = temp_path(temp_dir)
        self.write_temp(temp, data, mode, sync=sync)
        try:
            self.replace(temp, path)
        except OSError:
            self.discard(temp)
            raise

    def discard(self, path: str) -> None:
        """Remove a temporary file if it can be done; if not, the next founding clears it."""
        with suppress(OSError):
            os.unlink(path)

    def replace(self, source: str, target: str) -> None:
        """Rename a file over another, or to a new name, in one step."""
        if sys.platform == "win32":  # pragma: no cover
            retry_on_sharing_violation(lambda: os.replace(source, target))
        else:
            os.replace(source, target)

    def remove(self, path: str) -> None:
        """Remove a file."""
        os.unlink(path)

    def remove_dir(self, path: str) -> None:
        """Remove an empty folder."""
        os.rmdir(path)

    def sync(self, descriptor: int) -> None:
        """Have the device keep what was written to a file."""
        if not self.durable:
            return
        if sys.platform == "darwin":  # pragma: no cover
            import fcntl

            # fsync leaves the data in the cache of the device: man 2 fcntl.
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

    def sync_dir(self, path: str) -> None:
        """Have the device keep the names in a folder: what was renamed and removed in it.

        Windows has no such call. Where the file system has none, a warning says so.
        """
        if not self.durable or sys.platform == "win32":
            return
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in _NO_DIR_SYNC:
                name_file(error, path)
                raise
            warnings.warn(
                f"{path}: this file system cannot flush a folder, so a power cut may take "
                "back what was saved last",
                RuntimeWarning,
                stacklevel=2,
            )
        finally:
            os.close(descriptor)

    def sync_file(self, path: str) -> None:
        """Have the device keep a file that somebody wrote before; one that is gone needs none."""
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
        """Have the device keep all that was written to the file system of an open folder.

        Returns whether this file system can: there, it costs a fraction of flushing many
        files one by one. Errors are those since the folder was opened (man 2 syncfs, Linux
        5.8).
        """
        if not self.durable:
            return True
        if not can_syncfs(path):
            return False
        try:
            _syncfs(descriptor)
        except OSError as error:
            name_file(error, path)
            raise
        return True

    def truncate(self, descriptor: int, size: int) -> None:
        """Cut a file off, unflushed."""
        os.ftruncate(descriptor, size)

    def make_dir(self, path: str) -> None:
        """Make a private folder, and those above it, each durable in the one above.

        One that exists is left as it is. Raises ``NotADirectoryError`` for what is no
        folder, a symbolic link to one included: the store stays within its root.
        """
        try:
            try:
                os.mkdir(path, DIR_MODE)
            except FileNotFoundError:
                self.make_dir(os.path.dirname(path))
                os.mkdir(path, DIR_MODE)  # Fails where none can be made, as in /proc.
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                raise NotADirectoryError(
                    errno.ENOTDIR, "is in the way of a folder of the store: move it away", path
                ) from None
            return
        os.chmod(path, DIR_MODE)  # The umask may have taken our own rights.
        _inherit_owner(path)
        self.sync_dir(os.path.dirname(path))

    def clear_temp_files(self, folder: str) -> None:
        """Remove what writers that died left in a folder of temporary files."""
        for name in os.listdir(folder):
            if name.endswith(_TEMP_SUFFIX):
                with suppress(OSError):  # Nothing depends on it.
                    os.unlink(os.path.join(folder, name))


def mode_of(path: str) -> int:
    """The permission bits of a file; those of a new one if it is gone."""
    try:
        return stat.S_IMODE(os.lstat(path).st_mode)
    except FileNotFoundError:
        return FILE_MODE


def temp_path(folder: str) -> str:
    """A path in a folder that nobody can foresee and :meth:`Disk.clear` knows."""
    return f"{folder}{os.sep}{os.urandom(8).hex()}{_TEMP_SUFFIX}"


def open_to_write(path: str, flags: int = 0) -> int:
    """Open a file to read and write it. A new one is private, and its folder's owner's."""
    descriptor = os.open(path, _WRITE | flags, FILE_MODE)
    if descriptor <= _STANDARD_ERROR:
        descriptor = _move_up(descriptor)
    if flags & os.O_CREAT:
        try:
            if os.fstat(descriptor).st_mode & FILE_MODE != FILE_MODE and hasattr(os, "fchmod"):
                os.fchmod(descriptor, FILE_MODE)  # The umask may have taken our own rights.
            _inherit_owner(descriptor, os.path.dirname(path))
        except BaseException:
            os.close(descriptor)
            raise
    return descriptor


def write(descriptor: int, data: bytes, offset: int = 0) -> None:
    """Write all of ``data`` over what a file holds at an offset.

    One call of the system may write less, on a full disk or at a limit.
    """
    written = _pwrite(descriptor, data, offset)
    while written < len(data):
        step = _pwrite(descriptor, data[written:], offset + written)
        if step == 0:
            raise OSError(errno.EIO, "nothing could be written")
        written += step


def name_file(error: OSError, path: str) -> None:
    """Name the file in an error of a call that knew only a descriptor."""
    if error.filename is None:
        error.filename = path


def _pwrite(descriptor: int, data: bytes, offset: int) -> int:
    if _HAS_PWRITE:
        return os.pwrite(descriptor, data, offset)
    os.lseek(descriptor, offset, os.SEEK_SET)  # pragma: no cover
    return os.write(descriptor, data)  # pragma: no cover


def _move_up(descriptor: int) -> int:
    """Another descriptor for a file that got the number of a standard stream.

    Where those are closed, a stray message to one of them would land in the file.
    """
    if sys.platform == "win32":  # pragma: no cover
        return descriptor
    import fcntl

    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _STANDARD_ERROR + 1)
    finally:
        os.close(descriptor)


def _allocate(descriptor: int, size: int) -> None:
    """Reserve the blocks: a full disk shows here.

    On ext4 it also saves the rename from writing them at once, as it must where they are
    not allocated yet.
    """
    if size and hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            if error.errno not in _NO_ALLOCATION:
                raise


def _inherit_owner(file: str | int, folder: str | None = None) -> None:
    """Give what root makes to the owner of the folder it is in, as far as root may.

    Otherwise one ``sudo`` of an operator leaves the service a file that it may not read.
    """
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return
    owner = os.stat(folder if folder is not None else os.path.dirname(str(file)))
    if owner.st_uid != 0:
        with suppress(OSError):
            os.chown(file, owner.st_uid, owner.st_gid)
