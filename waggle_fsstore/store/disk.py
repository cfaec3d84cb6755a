# SPDX-License-Identifier: Apache-2.0
"""Where bytes hit the disk: the only module that changes the files of a store.

A file appears under its name whole or not at all: it is written under another name,
flushed, and renamed. What is renamed is durable once its folder was flushed.
"""

import errno
import os
import secrets
import stat
import sys
import time
import warnings
from contextlib import suppress
from typing import Final

FILE_MODE: Final = 0o600
FOLDER_MODE: Final = 0o700

_TEMPORARY_SUFFIX: Final = ".tmp"

# Absent on Windows, where there is nothing like them.
_NO_FOLLOW: Final[int] = getattr(os, "O_NOFOLLOW", 0)
_BINARY: Final[int] = getattr(os, "O_BINARY", 0)
_CLOSE_ON_EXEC: Final[int] = getattr(os, "O_CLOEXEC", 0)
_READ: Final = os.O_RDONLY | _NO_FOLLOW | _BINARY | _CLOSE_ON_EXEC
_WRITE: Final = os.O_RDWR | _NO_FOLLOW | _BINARY | _CLOSE_ON_EXEC

# Windows refuses to replace a file that somebody has open, a virus scanner for one.
_SHARING_VIOLATIONS: Final = frozenset({5, 32, 33})
_REPLACE_PATIENCE: Final = 2.0

# A file system that cannot flush a folder (NFS, some of FUSE) says so with one of these.
_NO_FOLDER_FLUSH: Final = frozenset({errno.EINVAL, errno.ENOTSUP})


class Disk:
    """Changes files. With ``durable=False`` it flushes nothing, for tests that want speed."""

    __slots__ = ("_durable",)

    def __init__(self, *, durable: bool) -> None:
        self._durable = durable

    def stage(self, folder: str, data: bytes, mode: int = FILE_MODE) -> str:
        """Write a new file into a folder, flushed, under a name of its own; returns its path.

        Nothing of it is left when this raises.
        """
        path = temporary_path(folder)
        descriptor = os.open(path, _WRITE | os.O_CREAT | os.O_EXCL, FILE_MODE)
        try:
            try:
                _inherit_owner(descriptor, folder)
                if mode != FILE_MODE and hasattr(os, "fchmod"):
                    os.fchmod(descriptor, mode)
                # A full disk shows here. On ext4 it also saves the rename from writing
                # the blocks at once, as it must where they are not allocated yet.
                if data and hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(descriptor, 0, len(data))
                _write(descriptor, data)
                self.flush(descriptor)
            finally:
                os.close(descriptor)
        except BaseException as error:
            with suppress(OSError):
                os.unlink(path)
            if isinstance(error, OSError):
                _name(error, path)
            raise
        return path

    def replace(self, source: str, target: str) -> None:
        """Rename a file over another, or to a new name, in one step."""
        if sys.platform == "win32":  # pragma: no cover
            _replace_patiently(source, target)
        else:
            os.replace(source, target)

    def remove(self, path: str) -> None:
        """Remove a file."""
        os.unlink(path)

    def flush(self, descriptor: int) -> None:
        """Have the device keep what was written to a file."""
        if not self._durable:
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

    def flush_file(self, file: "PermanentFile") -> None:
        """Have the device keep a file that was overwritten."""
        try:
            self.flush(file.open()[0])
        except OSError as error:
            _name(error, file.path)
            raise

    def flush_folder(self, path: str) -> None:
        """Have the device keep the names in a folder: what was renamed and removed in it.

        Windows has no such call. Where the file system has none, a warning says so.
        """
        if not self._durable or sys.platform == "win32":
            return
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _CLOSE_ON_EXEC)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in _NO_FOLDER_FLUSH:
                _name(error, path)
                raise
            warnings.warn(
                f"{path}: this file system cannot flush a folder, so a power cut may take "
                "back what was saved last",
                RuntimeWarning,
                stacklevel=2,
            )
        finally:
            os.close(descriptor)

    def make_folder(self, path: str) -> None:
        """Make a private folder, and those above it, each durable in the one above.

        One that exists is left as it is. Raises ``NotADirectoryError`` for what is no
        folder, a symbolic link to one included: the store stays within its root.
        """
        try:
            os.mkdir(path, FOLDER_MODE)
        except FileNotFoundError:
            self.make_folder(os.path.dirname(path))
            self.make_folder(path)
            return
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                raise NotADirectoryError(
                    errno.ENOTDIR, "is in the way of a folder of the store: move it away", path
                ) from None
            return
        self.flush_folder(os.path.dirname(path))

    def clear(self, folder: str) -> None:
        """Remove what writers that died left in a folder of temporary files."""
        for name in os.listdir(folder):
            if name.endswith(_TEMPORARY_SUFFIX):
                os.unlink(os.path.join(folder, name))


class PermanentFile:
    """A file that is overwritten in place and never replaced, kept open between uses.

    With ``writable=False`` it is neither made nor written.
    """

    __slots__ = ("_descriptor", "_inode", "_writable", "path")

    def __init__(self, path: str, *, writable: bool = True) -> None:
        self.path = path
        self._writable = writable
        self._descriptor: int | None = None
        self._inode = (0, 0)

    def __del__(self) -> None:
        self.close()

    def open(self) -> tuple[int, bool]:
        """Its descriptor, and whether it was opened only now; makes an empty file if missing."""
        if self._descriptor is not None:
            return self._descriptor, False
        descriptor = self._open_anew()
        status = os.fstat(descriptor)
        self._inode = (status.st_dev, status.st_ino)
        self._descriptor = descriptor
        return descriptor, True

    def is_in_place(self) -> bool:
        """Whether the open file is still the one at its path.

        It is not where ``git clean`` removed it, or where somebody moved the whole store
        away and put another in its place.
        """
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return False
        return (status.st_dev, status.st_ino) == self._inode

    def read(self, size: int) -> bytes:
        """The first bytes of the file, fewer if it is shorter."""
        descriptor, _ = self.open()
        os.lseek(descriptor, 0, os.SEEK_SET)
        return os.read(descriptor, size)

    def overwrite(self, data: bytes) -> None:
        """Write over the start of the file, unflushed."""
        try:
            _write(self.open()[0], data)
        except OSError as error:
            _name(error, self.path)
            raise

    def close(self) -> None:
        """Release the descriptor."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _open_anew(self) -> int:
        if not self._writable:
            return os.open(self.path, _READ)
        try:
            return os.open(self.path, _WRITE)
        except FileNotFoundError:
            descriptor = os.open(self.path, _WRITE | os.O_CREAT, FILE_MODE)
            _inherit_owner(descriptor, os.path.dirname(self.path))
            return descriptor


def mode_of(path: str) -> int:
    """The permission bits of a file; those of a new one if it is gone."""
    try:
        return stat.S_IMODE(os.lstat(path).st_mode)
    except FileNotFoundError:
        return FILE_MODE


def temporary_path(folder: str) -> str:
    """A path in a folder that nobody can foresee and :meth:`Disk.clear` knows."""
    return f"{folder}{os.sep}{secrets.token_hex(8)}{_TEMPORARY_SUFFIX}"


def _write(descriptor: int, data: bytes) -> None:
    """Write all of ``data`` over the start of a file.

    One call of the system may write less, on a full disk or at a limit.
    """
    written = _pwrite(descriptor, data, 0)
    while written < len(data):
        step = _pwrite(descriptor, data[written:], written)
        if step == 0:
            raise OSError(errno.EIO, "nothing could be written")
        written += step


def _pwrite(descriptor: int, data: bytes, offset: int) -> int:
    if hasattr(os, "pwrite"):
        return os.pwrite(descriptor, data, offset)
    os.lseek(descriptor, offset, os.SEEK_SET)  # pragma: no cover
    return os.write(descriptor, data)  # pragma: no cover


def _inherit_owner(descriptor: int, folder: str) -> None:
    """Give what root makes to the owner of the folder.

    Otherwise one ``sudo`` of an operator leaves the service a file that it may not read.
    """
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        owner = os.stat(folder)
        if owner.st_uid != 0:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)


def _replace_patiently(source: str, target: str) -> None:
    deadline = time.monotonic() + _REPLACE_PATIENCE
    while True:
        try:
            os.replace(source, target)
            return
        except OSError as error:
            violation = getattr(error, "winerror", None) in _SHARING_VIOLATIONS
            if not violation or time.monotonic() >= deadline:
                raise
        time.sleep(0.005)


def _name(error: OSError, path: str) -> None:
    """Name the file in an error of a call that knew only a descriptor."""
    if error.filename is None:
        error.filename = path
