# SPDX-License-Identifier: Apache-2.0
"""The state record: the last committed and the last published change of a store.

One line of fixed size in ``.waggle/state``, overwritten in place under the store lock and
never fsynced. After a power cut it may be out of date, and in a copy of the store it describes
the original. So it is valid only for the boot, the mount and the store that it names. Without
it, nothing is lost: recovery replays the journal.

What tells a store from its copies is the directory of its documents:

- :func:`store_id`, its inode and when it was created: a copy elsewhere has another one;
- :func:`is_set_back`, its time of modification: a copy that is put back over the original sets
  it to an earlier time;
- :func:`mounted_id`, the store id with boot and mount: the state record is valid there only,
  and through other mounts while a process uses it there (:func:`is_trusted`).
"""

import os
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeGuard
from zlib import crc32

from waggle_fsstore.domain.errors import CorruptDocumentError
from waggle_fsstore.domain.process import boot_id
from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.fs.in_place_file import InPlaceFile
from waggle_fsstore.store.fs.linux import birth_time, mount_id
from waggle_fsstore.store.fs.lock import is_in_use, show_use
from waggle_fsstore.store.fs.safe_read import read_regular
from waggle_fsstore.store.journal.lines import Cursor

_HEAD: Final = "waggle-state 3"

# Within the smallest sector, so that no disk writes half of it.
_RECORD_BYTES: Final = 384
_PADDED_BYTES: Final = _RECORD_BYTES - len(" 00000000\n")

# A reader without the lock can meet a record that is just being overwritten.
_READ_ATTEMPTS: Final = 5

UNKNOWN: Final = "-"

#: The last writer did not fsync.
UNSYNCED: Final = 0
#: All published changes are durable, in the journal or in the documents.
DURABLE: Final = 1
#: Syncing documents failed: the next checkpoint, in any process, must rewrite them first.
SUSPECT: Final = 2
#: Both: the last writer did not fsync, and syncing documents had failed before.
UNSYNCED_SUSPECT: Final = 3


class State(NamedTuple):
    """The progress of the changes, as the last writer recorded it.

    Change ``committed`` is the last one in the journal, ``published`` the last one whose
    documents are in place. The first line after ``published`` begins at ``offset`` (bytes) of
    ``segment``. ``durable`` is UNSYNCED, DURABLE, SUSPECT or UNSYNCED_SUSPECT. ``modified`` is
    when the directory of documents had last been modified by then, or up to one tick of the clock
    earlier (ns).
    """

    mounted_id: str
    durable: int
    segment: int
    offset: int
    committed: int
    published: int
    modified: int = 0

    @property
    def is_synced(self) -> bool:
        """Whether the last writer synced what it committed."""
        return self.durable in (DURABLE, SUSPECT)

    @property
    def is_suspect(self) -> bool:
        """Whether the next checkpoint must rewrite the documents first."""
        return self.durable in (SUSPECT, UNSYNCED_SUSPECT)

    @property
    def published_cursor(self) -> Cursor:
        """The end of the changes that are published."""
        return Cursor(self.published, self.segment, self.offset)


class StateRecord:
    """The state record of a writer that holds the store lock; the file is kept open."""

    __slots__ = ("_file",)

    def __init__(self, path: str) -> None:
        self._file = InPlaceFile(path)

    def read(self) -> State | None:
        """Return the state; ``None`` if the record is empty or invalid."""
        if not self._file.is_in_place():
            self._file.close()
        return _parse(self._file.read(_RECORD_BYTES))

    def show_use(self) -> None:
        """Let readers see that the record is kept up to date by a process that is alive."""
        show_use(self._file.open()[0])

    def is_in_place(self) -> bool:
        """Return whether the open file is the one that readers see."""
        return self._file.is_in_place()

    def write(
        self,
        mounted_id: str,
        durable: int,
        segment: int,
        offset: int,
        committed: int,
        published: int,
        modified: int,
    ) -> None:
        """Overwrite the record with the members of a :class:`State`, without fsync."""
        line = b"%b %d %d %d %d %d %d" % (
            _head(mounted_id),
            durable,
            segment,
            offset,
            committed,
            published,
            modified,
        )
        self._file.overwrite(b"%b %08x\n" % (line.ljust(_PADDED_BYTES), crc32(line)))

    def close(self) -> None:
        """Release the descriptor; the next use opens the file again."""
        self._file.close()


def read_state(path: str) -> State | None:
    """Return the state as a reader without the lock sees it; ``None`` without a valid one."""
    for _ in range(_READ_ATTEMPTS):
        try:
            state = _parse(read_regular(path, _RECORD_BYTES))
        except (FileNotFoundError, PermissionError, CorruptDocumentError):
            return None
        if state is not None:
            return state
    return None


def trusted_state(layout: Layout) -> State | None:
    """Return the state if its record is of this boot, mount and store; ``None`` otherwise."""
    state = read_state(layout.state)
    try:
        return state if is_trusted(state, layout) else None
    except FileNotFoundError:  # The store was removed just now.
        return None


def is_trusted(state: State | None, layout: Layout) -> TypeGuard[State]:
    """Return whether a state is of this boot, mount and store, and of no copy put back here.

    Another mount will do while a process that uses the record there is alive: then the file
    system has been mounted ever since that process wrote it.
    """
    if state is None or is_set_back(layout, state.modified):
        return False
    here = mounted_id(layout)
    return here != UNKNOWN and (
        state.mounted_id == here
        or (_without_mount(state.mounted_id) == _without_mount(here) and is_in_use(layout.state))
    )


def store_id(layout: Layout) -> str:
    """Return the id of a store, which a reboot, chmod and chown keep and no copy elsewhere has.

    Where the file system does not say when a directory was created, it is :func:`marker_id`.
    "-" if the store is not initialized.
    """
    try:
        inode, born = os.stat(layout.environments).st_ino, birth_time(layout.environments)
    except FileNotFoundError:
        return UNKNOWN
    return f"{inode:x}-{born:x}" if born else marker_id(layout)


def marker_id(layout: Layout) -> str:
    """Return the id of a store that earlier versions use; it changes with the marker's status."""
    try:
        marker, documents = os.stat(layout.marker), os.stat(layout.environments)
    except FileNotFoundError:
        return UNKNOWN
    return f"{documents.st_ino:x}-{marker.st_ino:x}-{marker.st_ctime_ns:x}"


def last_modified(layout: Layout) -> int:
    """Return when a document was last added, replaced or removed, in nanoseconds."""
    return os.stat(layout.environments).st_mtime_ns


def is_set_back(layout: Layout, modified: int) -> bool:
    """Return whether the directory of documents was last modified before the time ``modified``.

    Then a program has set that time: one that put a copy back, times included. A clock that went
    back is no such program: with it, the time of change is the same.
    """
    try:
        status = os.stat(layout.environments)
    except FileNotFoundError:
        return False
    return status.st_mtime_ns < modified and status.st_mtime_ns != status.st_ctime_ns


def checkpoint_identity(layout: Layout, modified: int) -> dict[str, Any]:
    """Return the members of a checkpoint that say for which store it is valid.

    ``modified`` is :func:`last_modified` just before the documents were synced.
    """
    # In hex, because some readers of JSON round large numbers.
    return {"place": marker_id(layout), "store": store_id(layout), "modified": f"{modified:x}"}


def is_valid(checkpoint: dict[str, Any], layout: Layout) -> bool:
    """Return whether a checkpoint is of this very store, and no copy was put back since."""
    is_here = checkpoint["place"] == marker_id(layout) or checkpoint.get("store") == store_id(
        layout
    )
    return is_here and not is_set_back(layout, int(checkpoint.get("modified", "0"), 16))


def is_copy(checkpoint: dict[str, Any], layout: Layout) -> bool:
    """Return whether an invalid checkpoint is of the original of this store.

    Otherwise it names the marker alone, and that was touched.
    """
    place = checkpoint["place"]
    inode, here = place.partition("-")[0], marker_id(layout).partition("-")[0]
    return bool(inode != here or checkpoint.get("store", place) != place)


def mounted_id(layout: Layout) -> str:
    """Return an id of this boot, mount and store, as far as the system can tell.

    A disk that was unplugged and mounted again gets another one, on Linux 6.8 and later. "-"
    if the system has no id for a boot: then no process trusts the record of another.
    """
    boot, here = boot_id(), store_id(layout)
    if not boot or here == UNKNOWN:
        return UNKNOWN
    device = os.stat(layout.environments).st_dev
    return f"{boot}:{mount_id(layout.environments):x}:{device:x}:{here}"


def boot_of(mounted_id: str) -> str:
    """Return the boot id in the id of a mounted store; :data:`UNKNOWN` without one."""
    return mounted_id.partition(":")[0]


def inode_of(mounted_id: str) -> str:
    """Return the inode of the documents' directory in the id of a mounted store.

    Processes agree on it even where some of them cannot tell when the directory was created.
    """
    return mounted_id.rpartition(":")[2].partition("-")[0]


def _without_mount(mounted_id: str) -> list[str]:
    parts = mounted_id.split(":")
    return parts[:1] + parts[2:]


@lru_cache(maxsize=8)
def _head(mounted_id: str) -> bytes:
    return f"{_HEAD} {mounted_id}".encode()


@lru_cache(maxsize=8)  # Readers meet the same few records again and again.
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
