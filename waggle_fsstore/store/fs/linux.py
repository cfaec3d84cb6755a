# SPDX-License-Identifier: Apache-2.0
"""Linux: mounts, clocks, and the system calls that Python has no name for."""

import errno
import os
import struct
import sys
import time
from collections.abc import Callable
from functools import cache
from typing import Any, Final, NamedTuple

# linux/stat.h, linux/fcntl.h
_STATX_BYTES: Final = 256
_STATX_TYPE_MODE_NLINK_UID_GID_INO: Final = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x100
_STATX_BTIME: Final = 0x800
_STATX_MNT_ID_UNIQUE: Final = 0x4000
_AT_FDCWD: Final = -100

# The file systems whose syncfs is known to work. FUSE, for example, ignores it.
_WITH_SYNCFS: Final = frozenset({"ext4", "xfs", "btrfs", "tmpfs"})

# The file systems that set the change time of a file (ctime) from the clock of this system at
# each change, and let no program set it. FAT has none, and that of NFS may be out of date.
_WITH_CHANGE_TIMES: Final = frozenset({"ext4", "xfs", "btrfs", "tmpfs", "overlay"})

# linux/time.h
_CLOCK_REALTIME_COARSE: Final = 5


def mount_id(path: str) -> int:
    """Return a number that no other mount since boot has had (man 2 statx, Linux 6.8).

    Returns 0 where the system has none.
    """
    mask, status = _statx(path, _STATX_MNT_ID_UNIQUE)
    return int(struct.unpack_from("=Q", status, 144)[0]) if mask & _STATX_MNT_ID_UNIQUE else 0


def birth_time(path: str) -> int:
    """Return when a file was created, in nanoseconds, which no program can change later.

    Returns 0 where the system does not say it.
    """
    mask, status = _statx(path, _STATX_BTIME)
    seconds, nanoseconds = struct.unpack_from("=qI", status, 80)
    return int(seconds * 1_000_000_000 + nanoseconds) if mask & _STATX_BTIME else 0


class TimelessStatus(NamedTuple):
    """The status of a file without its times."""

    st_nlink: int
    st_uid: int
    st_gid: int
    st_mode: int
    st_ino: int
    #: The numbers of its device.
    major: int
    minor: int


# struct statx: nlink to ino, and the device.
_TIMELESS: Final = struct.Struct("=16xIIIH2xQ96xII").unpack_from


def timeless_status(path: str) -> TimelessStatus:
    """Return the status of a file without its times, because a look at these is costly.

    Since Linux 6.13, the next change of a file whose times were looked at gets a new time, and so
    do all files that are changed after it (multigrain timestamps). Then the inodes of more files
    are written at each save. Follows symbolic links. Raises what ``os.stat`` raises.
    """
    try:
        statx, make_buffer = _statx_function()
    except OSError:
        pass
    else:
        buffer = make_buffer()
        name = path.encode() if path.isascii() else os.fsencode(path)
        if statx(_AT_FDCWD, name, 0, _STATX_TYPE_MODE_NLINK_UID_GID_INO, buffer) == 0:
            return tuple.__new__(TimelessStatus, _TIMELESS(buffer))
    status = os.stat(path)
    device = status.st_dev
    return TimelessStatus(
        status.st_nlink,
        status.st_uid,
        status.st_gid,
        status.st_mode,
        status.st_ino,
        *((os.major(device), os.minor(device)) if hasattr(os, "major") else (0, device)),
    )


def _statx(path: str, wanted: int) -> tuple[int, bytes]:
    """Return the mask of what the system knows of a file, and its ``struct statx``."""
    try:
        statx, make_buffer = _statx_function()
    except OSError:
        return 0, bytes(_STATX_BYTES)
    buffer = make_buffer()
    if statx(_AT_FDCWD, os.fsencode(path), 0, wanted, buffer) != 0:
        return 0, bytes(_STATX_BYTES)
    return int.from_bytes(buffer.raw[:4], sys.byteorder), buffer.raw


@cache
def _statx_function() -> tuple[Any, Callable[[], Any]]:
    """Return statx, and a function that makes buffers for it. Raises ``OSError`` without it."""
    statx = _function("statx")
    import ctypes

    return statx, ctypes.c_char * _STATX_BYTES


def filesystem_type(path: str) -> str:
    """Return the type of the file system that a path is on; empty where /proc does not list it."""
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            mounts = [line.split() for line in file.read().splitlines()]
    except OSError:
        return ""
    name, best = b"", -1
    wanted = os.fsencode(os.path.join(path, ""))
    for fields in mounts:
        # man 5 proc: the mount point is the fifth, the type the first after the hyphen.
        point = _unescape(fields[4]).rstrip(b"/") + b"/"
        if wanted.startswith(point) and len(point) >= best:
            name, best = fields[fields.index(b"-") + 1], len(point)
    return name.decode(errors="replace")


def can_syncfs(path: str) -> bool:
    """Return whether :func:`syncfs` makes all files on the file system of a path durable."""
    try:
        _function("syncfs")
    except OSError:
        return False
    return filesystem_type(path) in _WITH_SYNCFS


def has_change_times(path: str) -> bool:
    """Return whether each change of a file here sets its ctime, from :func:`file_clock`."""
    return filesystem_type(path) in _WITH_CHANGE_TIMES


def file_clock() -> int:
    """Return the clock that no time of a file is behind, in nanoseconds; 0 on other systems."""
    if sys.platform != "linux":  # pragma: no cover
        return 0
    return time.clock_gettime_ns(_CLOCK_REALTIME_COARSE)


def is_fine_time(time_ns: int) -> bool:
    """Return whether a file has just got a time that :func:`file_clock` has not reached yet.

    Since Linux 6.13, ext4, xfs, btrfs and tmpfs give a file such a time where it was looked at
    since the last tick: each change that follows a look gets another time (multigrain timestamps).
    """
    if sys.platform != "linux":  # pragma: no cover
        return False
    return file_clock() < time_ns <= time.clock_gettime_ns(time.CLOCK_REALTIME)


def _unescape(field: bytes) -> bytes:
    for code in (b"\\040", b"\\011", b"\\012", b"\\134"):
        field = field.replace(code, bytes([int(code[1:], 8)]))
    return field


def syncfs(descriptor: int) -> None:
    """Sync the whole file system that an open file is on (man 2 syncfs)."""
    _checked(_function("syncfs"), descriptor)


def inotify_init() -> int:
    """Return a descriptor to read events from without waiting (man 2 inotify_init)."""
    return _checked(_function("inotify_init1"), os.O_CLOEXEC | os.O_NONBLOCK)


def inotify_add_watch(descriptor: int, path: str, mask: int) -> None:
    """Watch a path for changes (man 2 inotify_add_watch)."""
    _checked(_function("inotify_add_watch"), descriptor, os.fsencode(path), mask)


def bytes_to_read(descriptor: int) -> int:
    """Return how many bytes wait to be read from a descriptor of inotify (FIONREAD)."""
    import fcntl
    import termios

    return int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)), sys.byteorder)


def _checked(call: Callable[..., int], *arguments: Any) -> int:
    import ctypes

    result = call(*arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


@cache
def _function(name: str) -> Any:
    """Return a function of the C library.

    Raises ``OSError`` where it has none, and where Python was built without ctypes.
    """
    try:
        import ctypes  # Takes 2 ms, and few programs need it.

        return getattr(ctypes.CDLL(None, use_errno=True), name)
    except (ImportError, AttributeError, TypeError):  # The last one on Windows.
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
