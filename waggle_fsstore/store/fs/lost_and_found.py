# SPDX-License-Identifier: Apache-2.0
"""Evidence: what is kept in lost+found, each thing once."""

import itertools
import os
from typing import Final

from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.fs.disk import Disk, temp_path
from waggle_fsstore.store.fs.safe_read import is_regular

# Of a name in lost+found: leaves room for a number.
_MAX_STEM: Final = 200

_CHUNK: Final = 1 << 20


def free_path(folder: str, stem: str, suffix: str, number: int) -> str:
    """A path in lost+found that nothing has yet."""
    stem = stem[:_MAX_STEM]
    names = (f"{folder}{os.sep}{stem}.{n}{suffix}" for n in itertools.count(number))
    return next(name for name in names if not os.path.lexists(name))


def target_for(folder: str, stem: str, suffix: str, number: int, source: str) -> str:
    """Where in lost+found a file may be renamed to: over its equal, or where nothing is.

    Damage that comes again and again must not fill the disk.
    """
    if is_regular(source):
        for path in _of_stem(folder, stem, suffix):
            if _are_equal(source, path):
                return path
    return free_path(folder, stem, suffix, number)


def save_copy(layout: Layout, disk: Disk, stem: str, suffix: str, number: int, data: bytes) -> str:
    """The path of a durable copy of some bytes in lost+found; an equal one will do."""
    folder = layout.lost_and_found
    for path in _of_stem(folder, stem, suffix):
        if os.lstat(path).st_size == len(data) and _holds(path, data):
            return path
    for needed in (folder, layout.temporary):
        disk.make_dir(needed)
    source = temp_path(layout.temporary)
    disk.write_temp(source, data)
    target = free_path(folder, stem, suffix, number)
    try:
        disk.replace(source, target)
    except OSError:
        disk.discard(source)
        raise
    disk.sync_dir(folder)
    return target


def move_in(layout: Layout, disk: Disk, source: str, stem: str, suffix: str, number: int) -> str:
    """Rename a file, whatever it is, into lost+found, durably; its path there."""
    disk.make_dir(layout.lost_and_found)
    target = target_for(layout.lost_and_found, stem, suffix, number, source)
    disk.replace(source, target)
    disk.sync_dir(layout.lost_and_found)
    disk.sync_dir(os.path.dirname(source))
    return target


def _of_stem(folder: str, stem: str, suffix: str) -> list[str]:
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    start = f"{stem[:_MAX_STEM]}."
    paths = (
        f"{folder}{os.sep}{name}"
        for name in sorted(names)
        if name.startswith(start) and name.endswith(suffix)
    )
    return [path for path in paths if is_regular(path)]


def _are_equal(first: str, second: str) -> bool:
    if os.lstat(first).st_size != os.lstat(second).st_size:
        return False
    with open(first, "rb") as one, open(second, "rb") as other:
        while data := one.read(_CHUNK):
            if other.read(_CHUNK) != data:
                return False
    return True


def _holds(path: str, data: bytes) -> bool:
    with open(path, "rb") as file:
        return file.read() == data
