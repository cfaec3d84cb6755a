# SPDX-License-Identifier: Apache-2.0
"""Reading a file that a hand may have put there: only a regular one, of bounded size."""

import errno
import os
import stat
from contextlib import suppress
from typing import Final, NamedTuple

from waggle_fsstore.domain.errors import CorruptDocumentError

# Absent on Windows, where there is nothing like them. O_NONBLOCK: a pipe must not hold us up.
_NO_FOLLOW: Final[int] = getattr(os, "O_NOFOLLOW", 0)
_FLAGS: Final[int] = (
    os.O_RDONLY
    | _NO_FOLLOW
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_BINARY", 0)
    | getattr(os, "O_CLOEXEC", 0)
)


class Contents(NamedTuple):
    """What a file held when it was read: bytes, permission bits, time of modification."""

    data: bytes
    mode: int
    modified: float


def read(path: str, limit: int) -> Contents:
    """The contents of a regular file of at most ``limit`` bytes.

    Raises :class:`CorruptDocumentError` for a symbolic link, for anything else that
    is no regular file, and for a larger one; ``OSError`` when it cannot be read.
    """
    if not _NO_FOLLOW:  # pragma: no cover
        _refuse_irregular(path)
    try:
        descriptor = os.open(path, _FLAGS)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENXIO, errno.EACCES):
            _refuse_irregular(path)
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise CorruptDocumentError(path, f"is a {_kind(status.st_mode)}, not a regular file")
        size = status.st_size
        if size <= limit:
            # One byte more than there should be: in nearly all cases the only read.
            data = os.read(descriptor, size + 1)
            if len(data) == size:
                return Contents(data, stat.S_IMODE(status.st_mode), status.st_mtime)
            # It is being written in place, by an editor for one.
            while len(data) <= limit and (more := os.read(descriptor, limit + 1 - len(data))):
                data += more
            size = len(data)
        if size > limit:
            raise CorruptDocumentError(path, f"is larger than {limit} bytes")
        return Contents(data, stat.S_IMODE(status.st_mode), status.st_mtime)
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(descriptor)


def _refuse_irregular(path: str) -> None:
    """Say what a path is that could not be opened, if that is why."""
    with suppress(OSError):
        mode = os.lstat(path).st_mode
        if not stat.S_ISREG(mode):
            raise CorruptDocumentError(path, f"is a {_kind(mode)}, not a regular file")


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFLNK: "symbolic link",
        stat.S_IFDIR: "folder",
        stat.S_IFIFO: "named pipe",
        stat.S_IFSOCK: "socket",
    }
    return kinds.get(stat.S_IFMT(mode), "device")
