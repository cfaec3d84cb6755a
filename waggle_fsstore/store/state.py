# SPDX-License-Identifier: Apache-2.0
"""The state record: how far the changes of a store have come.

One line of fixed size in ``.waggle/state``, overwritten in place under the store
lock. It numbers the changes: the revision of a document is the number of the change
that stored it. It is not flushed (but for a delete, whose number no document keeps), so after a
power cut it may be old: it counts only for the boot, mount and folder that it names.
"""

import os
import struct
from typing import Final, NamedTuple
from zlib import crc32

from waggle_fsstore.domain.errors import CorruptDocumentError
from waggle_fsstore.store.disk import Disk
from waggle_fsstore.store.permanent import PermanentFile
from waggle_fsstore.store.reading import read

_HEAD: Final = "waggle-state 1"
_SIZE: Final = 192

# A reader without the lock can meet a record that is just being overwritten.
_READS: Final = 5

UNKNOWN: Final = "-"
_BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"

# linux/stat.h, linux/fcntl.h
_STATX_BYTES: Final = 256
_STATX_MNT_ID_UNIQUE: Final = 0x4000
_AT_FDCWD: Final = -100


class State(NamedTuple):
    """The last change that was begun (``committed``) and the last that is visible."""

    identity: str
    committed: int
    published: int


class StateRecord:
    """The state record of a writer that holds the store lock; kept open."""

    __slots__ = ("_file",)

    def __init__(self, path: str) -> None:
        self._file = PermanentFile(path)

    def read(self) -> State | None:
        """What it holds; ``None`` for nothing, or nothing valid."""
        if not self._file.is_in_place():
            self._file.close()
        return _parse(self._file.read(_SIZE))

    def write(self, state: State) -> None:
        """Overwrite it, unflushed."""
        line = f"{_HEAD} {state.identity} {state.committed:016d} {state.published:016d}".encode()
        self._file.overwrite(b"%-*b %08x\n" % (_SIZE - 10, line, crc32(line)))

    def flush(self, disk: Disk) -> None:
        """Have the device keep it."""
        self._file.flush(disk)

    def close(self) -> None:
        """Release the descriptor."""
        self._file.close()


def peek(path: str) -> State | None:
    """The state as a reader without the lock sees it; ``None`` if there is none."""
    for _ in range(_READS):
        try:
            state = _parse(read(path, _SIZE))
        except (FileNotFoundError, PermissionError, CorruptDocumentError):
            return None
        if state is not None:
            return state
    return None


def identity(environments: str) -> str:
    """Names this boot, this mount and this very folder, as far as the system can tell.

    A copy, another boot, and a disk that was pulled and mounted again have another one;
    that last case only on Linux 6.8 and later. "-" where the system has no name for a
    boot: then no record of another process is trusted.
    """
    try:
        # As bytes: to decode it may need to open a codec, under another name in an error.
        with open(_BOOT_ID, "rb") as file:
            boot = file.read().decode("ascii").strip()
    except OSError:  # Not Linux, or a sandbox that shows no /proc.
        return UNKNOWN
    status = os.stat(environments)
    return f"{boot}:{_mount_id(environments):x}:{status.st_dev:x}:{status.st_ino:x}"


def _mount_id(path: str) -> int:
    """A number that no other mount since boot has had (man 2 statx); 0 if there is none."""
    import ctypes  # Takes 2 ms: only writers pay for it.

    buffer = ctypes.create_string_buffer(_STATX_BYTES)
    try:
        statx = ctypes.CDLL(None, use_errno=True).statx
    except AttributeError:
        return 0
    if statx(_AT_FDCWD, os.fsencode(path), 0, _STATX_MNT_ID_UNIQUE, buffer) != 0:
        return 0
    mask, mount_id = struct.unpack_from("=I140xQ", buffer)
    return int(mount_id) if mask & _STATX_MNT_ID_UNIQUE else 0


def _parse(data: bytes) -> State | None:
    line, _, checksum = data.rstrip().rpartition(b" ")
    line = line.rstrip()
    try:
        if int(checksum, 16) != crc32(line):
            return None
        name, committed, published = line.decode().removeprefix(_HEAD).split()
        return State(name, int(committed), int(published))
    except ValueError:
        return None
