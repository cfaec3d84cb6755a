# SPDX-License-Identifier: Apache-2.0
"""Signatures of files: whether a file is unchanged since it was read, without reading it.

Every change of a file, of any kind, sets its change time (ctime) from the system's
clock, and no program can set it back. So a file with the same ctime is the same file,
unchanged, once that time is past: later changes get a later ctime.
docs/decisions/0007-document-cache.md has the argument.
"""

import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from operator import attrgetter
from stat import S_ISREG
from typing import Final

from waggle_fsstore.store.fs import linux

Signature = tuple[int, int, int, int, int, int]

_SECOND_NS: Final = 1_000_000_000

# File times tick every 1-10 ms; a leap second sets the clock back; and a write sets the time
# before it copies its bytes, and its process may have to wait in between.
_SETTLING_TIME_NS: Final = 2 * _SECOND_NS

#: The part of a status that differs once a file is changed, replaced or made unreadable.
signature_of: Final[Callable[[os.stat_result], Signature]] = attrgetter(
    "st_ctime_ns", "st_ino", "st_size", "st_mtime_ns", "st_mode", "st_dev"
)


def settled_signature(status: os.stat_result, directory: str, now: int) -> Signature | None:
    """Return the signature of a file in a directory if every later change will alter it.

    ``now`` is the :func:`~waggle_fsstore.store.fs.linux.file_clock` before the status was
    taken (ns). ``None`` means that the signature proves nothing.
    """
    is_settled = _is_past(status, now) and has_change_times(status, directory)
    return signature_of(status) if is_settled else None


def settled_directory(status: os.stat_result, directory: str, now: int) -> Signature | None:
    """Return the signature of a directory if every later change of its names will alter it.

    As :func:`settled_signature`. The kernel changes names and times under a lock that each
    listing waits for: a listing after the status was taken has all names that the times cover.
    """
    is_settled = _is_past(status, now) and _has_change_times(directory, status.st_dev)
    return signature_of(status) if is_settled else None


def _is_past(status: os.stat_result, now: int) -> bool:
    """Return whether a change from now on gets another change time."""
    changed = status.st_ctime_ns
    # In whole seconds, the file system may count nothing finer, and two changes easily share one.
    return changed < now - _SETTLING_TIME_NS and changed % _SECOND_NS != 0


def unchanged(directory: str, signatures: Mapping[str, Signature]) -> set[str]:
    """Return the names of the files in a directory that still have their settled signatures."""
    if not signatures:
        return set()
    names: set[str] = set()
    try:
        # Relative to a directory descriptor, stat takes a tenth less time.
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return names  # The caller reads the files, and gets the error.
    try:
        for name, signature in signatures.items():
            try:
                status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            except OSError:
                continue  # As above.
            if signature == signature_of(status):
                names.add(name)
    finally:
        os.close(descriptor)
    return names


def has_change_times(status: os.stat_result, directory: str) -> bool:
    """Return whether this system sees and timestamps each change of a file in a directory."""
    return S_ISREG(status.st_mode) and _has_change_times(directory, status.st_dev)


def has_change_times_at(directory: str) -> bool:
    """Return whether that is true of the regular files on the file system of a directory."""
    try:
        return _has_change_times(directory, os.stat(directory).st_dev)
    except OSError:
        return False


@lru_cache(maxsize=16)
def _has_change_times(directory: str, device: int) -> bool:
    """Return whether the directory is on this device, and the ctimes there show all changes."""
    return os.stat(directory).st_dev == device and linux.has_change_times(directory)


def proof(directory: str, *, is_watching: bool) -> str:
    """Return, in a sentence, what shows that a document in memory is the one on disk."""
    if not has_change_times_at(directory):
        return "Each read opens its files: this file system does not show every change of a file."
    watched = " Listings and counts follow inotify." if is_watching else ""
    return (
        "A document is used from memory while the status of its file is the same, from two seconds "
        f"after its last change on; until then, while its bytes are the same.{watched}"
    )
