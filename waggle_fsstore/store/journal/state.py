# SPDX-License-Identifier: Apache-2.0
"""The state record: how far the changes of a store have come.

One line of fixed size in ``.waggle/state``, overwritten in place under the store lock
and never flushed. After a power cut it may be old, and in a copy of the store it tells
of another one: it counts only for the boot, the mount and the very folder that it
names. Nothing depends on it: without it, the journal is replayed.
"""

import os
from typing import Final, NamedTuple
from zlib import crc32

from waggle_fsstore.domain.errors import CorruptDocumentError
from waggle_fsstore.domain.process import boot_id
from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.fs.in_place_file import InPlaceFile
from waggle_fsstore.store.fs.linux import mount_id
from waggle_fsstore.store.fs.safe_read import read_regular

_HEAD: Final = "waggle-state 2"

# Within the smallest sector, so that no disk writes half of it.
_SIZE: Final = 384

# A reader without the lock can meet a record that is just being overwritten.
_READS: Final = 5

UNKNOWN: Final = "-"

#: The last writer flushed nothing; or all is well; or a flush of documents failed, so that
#: they must be written anew before a checkpoint, whoever makes it.
UNSYNCED: Final = 0
DURABLE: Final = 1
SUSPECT: Final = 2


class State(NamedTuple):
    """How far the changes have come, as the last writer left it.

    Change ``committed`` is the last one in the journal, ``published`` the last of which
    the documents are in place. The first line after that begins at ``offset`` (bytes) of
    the segment whose name is ``segment``. ``durable`` is one of the three values above.
    """

    mounted_id: str
    durable: int
    segment: int
    offset: int
    committed: int
    published: int


class StateRecord:
    """The state record of a writer that holds the store lock; kept open."""

    __slots__ = ("_file",)

    def __init__(self, path: str) -> None:
        self._file = InPlaceFile(path)

    def read(self) -> State | None:
        """What it holds; ``None`` for nothing, or nothing valid."""
        if not self._file.is_in_place():
            self._file.close()
        return _parse(self._file.read(_SIZE))

    def is_in_place(self) -> bool:
        """Whether what is written goes where readers look."""
        return self._file.is_in_place()

    def write(self, state: State) -> None:
        """Overwrite it, unflushed."""
        line = f"{_HEAD} {' '.join(map(str, state))}".encode()
        self._file.overwrite(b"%-*b %08x\n" % (_SIZE - 10, line, crc32(line)))

    def close(self) -> None:
        """Release the descriptor."""
        self._file.close()


def read_state(path: str) -> State | None:
    """The state as a reader without the lock sees it; ``None`` if there is none."""
    for _ in range(_READS):
        try:
            state = _parse(read_regular(path, _SIZE))
        except (FileNotFoundError, PermissionError, CorruptDocumentError):
            return None
        if state is not None:
            return state
    return None


def store_id(layout: Layout) -> str:
    """Names this very store: the same after a reboot, another one in any copy.

    "-" where it is not founded yet.
    """
    try:
        marker, folder = os.stat(layout.marker), os.stat(layout.environments)
    except FileNotFoundError:
        return UNKNOWN
    return f"{folder.st_ino:x}-{marker.st_ino:x}-{marker.st_ctime_ns:x}"


def is_another_store(store_id: str, other: str) -> bool:
    """Whether one of two places is a copy of the other: the folders differ.

    A marker that a hand touched or replaced makes another place, but no copy.
    """
    return store_id.partition("-")[0] != other.partition("-")[0]


def mounted_id(layout: Layout) -> str:
    """Names this boot, this mount and this very store, as far as the system can tell.

    A disk that was pulled and mounted again has another one, on Linux 6.8 and later.
    "-" where the system has no name for a boot: no record of another process is trusted.
    """
    boot, here = boot_id(), store_id(layout)
    if not boot or here == UNKNOWN:
        return UNKNOWN
    device = os.stat(layout.environments).st_dev
    return f"{boot}:{mount_id(layout.environments):x}:{device:x}:{here}"


def is_trusted(state: State | None, expected: str) -> bool:
    """Whether a record tells of this boot, mount and store; ``expected`` is their identity."""
    return state is not None and state.mounted_id == expected != UNKNOWN


def _parse(data: bytes) -> State | None:
    line, _, checksum = data.rstrip().rpartition(b" ")
    line = line.rstrip()
    try:
        if int(checksum, 16) != crc32(line):
            return None
        name, *numbers = line.decode().removeprefix(_HEAD).split()
        return State(name, *map(int, numbers))
    except (ValueError, TypeError):
        return None
