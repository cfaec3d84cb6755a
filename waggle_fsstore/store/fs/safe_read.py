# SPDX-License-Identifier: Apache-2.0
"""Read files that a manual edit may have put in place: regular ones of bounded size only."""

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

from waggle_fsstore.domain.errors import CorruptDocumentError, UnsupportedFormatError

#: The errors of a single file, which affect no other.
BadFile = CorruptDocumentError | UnsupportedFormatError | OSError

# These concern the process, not the one file that was being opened.
_OUT_OF_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})

_T = TypeVar("_T")

# Windows lacks them. O_NONBLOCK: opening a pipe must not wait for its other end.
_NO_FOLLOW: Final[int] = getattr(os, "O_NOFOLLOW", 0)
_FLAGS: Final[int] = (
    os.O_RDONLY | _NO_FOLLOW | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
)

#: Reads some bytes of an open file from an offset: ``read_at(descriptor, size, offset)``.
if hasattr(os, "pread"):
    read_at = os.pread
else:  # pragma: no cover

    def read_at(descriptor: int, size: int, offset: int, /) -> bytes:
        """As :func:`os.pread`, which Windows lacks."""
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, size)


def _end_of(descriptor: int) -> int:
    # With fstat, a read takes 6.3 us instead of 5.0. lseek fails for a pipe.
    return os.lseek(descriptor, 0, os.SEEK_END)


def read_regular(path: str, limit: int, size_of: Callable[[int], int] = _end_of) -> bytes:
    """Return the contents of a regular file of at most ``limit`` bytes.

    ``size_of`` returns the size of an open file. Raises :class:`CorruptDocumentError` for a
    larger file, and for a symbolic link or anything else but a regular file; ``OSError`` if the
    file cannot be read.
    """
    if not _NO_FOLLOW:  # pragma: no cover
        refuse_irregular(path)
    try:
        descriptor = os.open(path, _FLAGS)
        try:
            size = size_of(descriptor)
            if 0 < size <= limit:  # Reading fails for a directory.
                # One byte more than expected: nearly always, no other read is needed.
                data = read_at(descriptor, size + 1, 0)
                if len(data) == size:
                    return data
            return _read_unusual(descriptor, path, limit)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise
    except OSError as error:
        refuse_irregular(path)
        error.filename = path
        raise


def read_with_status(path: str, limit: int) -> tuple[bytes, os.stat_result]:
    """Return the contents of a file, and its status before the read; see :func:`read_regular`."""
    taken: list[os.stat_result] = []

    def size_of(descriptor: int) -> int:
        taken.append(os.fstat(descriptor))
        return taken[0].st_size

    return read_regular(path, limit, size_of), taken[0]


def has_still(path: str, data: bytes) -> bool:
    """Return whether the file at a path can be read, and contains these very bytes."""
    try:
        descriptor = os.open(path, _FLAGS)
    except OSError:
        return False
    try:
        return read_at(descriptor, len(data) + 1, 0) == data
    except OSError:  # It is a directory, for example.
        return False
    finally:
        os.close(descriptor)


def _read_unusual(descriptor: int, path: str, limit: int) -> bytes:
    """Read a file that is empty, too large, a device, or being written in place by an editor."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise CorruptDocumentError(path, f"is a {_kind(status.st_mode)}, not a regular file")
    data = b""
    if status.st_size <= limit:
        while more := read_at(descriptor, limit + 1 - len(data), len(data)):
            data += more
        if len(data) <= limit:
            return data
    raise CorruptDocumentError(path, f"is larger than {limit} bytes")


def read_or_error(read: Callable[[], _T]) -> _T | BadFile:
    """Return what ``read()`` returns, or the error that it raises if that concerns one file only.

    An ``OSError`` that says that the process is out of descriptors or memory is raised: to
    blame the file would report, or replace, a document that is well.
    """
    try:
        return read()
    except (CorruptDocumentError, UnsupportedFormatError) as error:
        return error
    except OSError as error:
        if error.errno in _OUT_OF_RESOURCES:
            raise
        return error


def modified_at(path: str) -> float:
    """Return when a file was modified, in seconds since the epoch."""
    return os.stat(path).st_mtime


def is_regular(path: str) -> bool:
    """Return whether there is a regular file at a path, rather than a link or a directory."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False


def refuse_irregular(path: str) -> None:
    """Raise :class:`CorruptDocumentError` if a path is anything else but a regular file."""
    with suppress(OSError):
        mode = os.lstat(path).st_mode
        if not stat.S_ISREG(mode):
            raise CorruptDocumentError(path, f"is a {_kind(mode)}, not a regular file")


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFLNK: "symbolic link",
        stat.S_IFDIR: "directory",
        stat.S_IFIFO: "named pipe",
        stat.S_IFSOCK: "socket",
    }
    return kinds.get(stat.S_IFMT(mode), "device")
