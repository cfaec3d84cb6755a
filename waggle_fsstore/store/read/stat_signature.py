# SPDX-License-Identifier: Apache-2.0
"""Whether a file is as it was when it was read, told without reading it again.

The time of change of a file (ctime) is set by each change of it, of whichever kind, from
the clock of the system, and nobody can set it back. So a file with the same ctime is the
same file, unchanged, once that time is past: a change to come will have a later one.
docs/decisions/0007-document-cache.md has the argument.
"""

import os
from collections.abc import Callable
from functools import lru_cache
from operator import attrgetter
from stat import S_ISREG
from typing import Final

from waggle_fsstore.store.fs.linux import has_change_times

Signature = tuple[int, int, int, int, int, int]

_SECOND: Final = 1_000_000_000  # ns

# Times of files tick every 1-10 ms; a leap second sets the clock back; and a write sets the
# time first and copies its bytes then, and its process may have to wait in between.
_SETTLED: Final = 2 * _SECOND

#: What changes when a file is changed, replaced, or no longer to be read.
signature_of: Final[Callable[[os.stat_result], Signature]] = attrgetter(
    "st_ctime_ns", "st_ino", "st_size", "st_mtime_ns", "st_mode", "st_dev"
)


def is_settled(status: os.stat_result, folder: str, now: int) -> bool:
    """Whether any change of a file in a folder that comes after this will show.

    ``now`` is what :func:`~waggle_fsstore.store.fs.linux.file_clock` said before its status
    was taken.
    """
    changed = status.st_ctime_ns
    return (
        changed < now - _SETTLED
        # Else the file system may count in seconds: two changes too easily have the same time.
        and changed % _SECOND != 0
        and is_stamped(status, folder)
    )


def is_stamped(status: os.stat_result, folder: str) -> bool:
    """Whether each change of a file in a folder is stamped by this system, and noticed by it."""
    return S_ISREG(status.st_mode) and _has_change_times(folder, status.st_dev)


def has_change_times_at(folder: str) -> bool:
    """Whether that is so of the files in a folder."""
    try:
        return _has_change_times(folder, os.stat(folder).st_dev)
    except OSError:
        return False


@lru_cache(maxsize=16)
def _has_change_times(folder: str, device: int) -> bool:
    """Whether a ctime tells of all changes on this device, and it is that of the folder."""
    return os.stat(folder).st_dev == device and has_change_times(folder)
