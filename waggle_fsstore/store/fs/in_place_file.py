# SPDX-License-Identifier: Apache-2.0
"""InPlaceFile: a file that is overwritten in place, never replaced, and kept open."""

import errno
import os
import stat
from contextlib import suppress
from typing import Final

from waggle_fsstore.store.fs.disk import name_file, open_to_write, write
from waggle_fsstore.store.fs.safe_read import read_at

_READ: Final[int] = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_BINARY", 0)
)


class InPlaceFile:
    """The lock file, or the state record.

    With ``create=False`` a missing file is an error, and an unwritable one is opened read-only.
    """

    __slots__ = ("_create", "_descriptor", "_inode", "is_writable", "modified", "path")

    def __init__(self, path: str, *, create: bool = True) -> None:
        self.path = path
        self.is_writable = True
        #: When it was last written, as of the last :meth:`is_in_place` (ns); 0 after a write.
        self.modified = 0
        self._create = create
        self._descriptor: int | None = None
        self._inode = (0, 0)

    def __del__(self) -> None:
        with suppress(AttributeError):  # The constructor may have failed.
            self.close()

    def open(self) -> tuple[int, bool]:
        """Return its descriptor, and whether this call opened it; makes a missing file, empty."""
        if self._descriptor is not None:
            return self._descriptor, False
        descriptor = self._open_file()
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "is not a regular file: move it away", self.path)
        except BaseException:
            os.close(descriptor)
            raise
        self._inode = (status.st_dev, status.st_ino)
        self._descriptor = descriptor
        return descriptor, True

    def is_in_place(self) -> bool:
        """Return whether the open file is still the one at its path.

        It was replaced if ``git clean`` removed it, or if the whole store was moved away and
        another one put in its place.
        """
        try:
            status = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        self.modified = status.st_mtime_ns
        return (status.st_dev, status.st_ino) == self._inode

    def read(self, size: int) -> bytes:
        """Return the first ``size`` bytes of the file, fewer if it is shorter."""
        descriptor, _ = self.open()
        try:
            return read_at(descriptor, size, 0)
        except OSError as error:
            name_file(error, self.path)
            raise

    def overwrite(self, data: bytes) -> None:
        """Write over the start of the file, without a sync."""
        self.modified = 0
        try:
            write(self._descriptor or self.open()[0], data)
        except OSError as error:
            name_file(error, self.path)
            raise

    def close(self) -> None:
        """Close the descriptor."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _open_file(self) -> int:
        try:
            return open_to_write(self.path)
        except FileNotFoundError:
            if not self._create:
                raise
            return open_to_write(self.path, os.O_CREAT)
        except OSError as error:
            if self._create or error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise
            self.is_writable = False
            return os.open(self.path, _READ)
