# SPDX-License-Identifier: Apache-2.0
"""The directory lost+found: what a repair or a delete replaces, with each content kept once."""

import itertools
import os
from functools import partial
from typing import Final

from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.fs.disk import Disk
from waggle_fsstore.store.fs.safe_read import is_regular, read_or_error, read_regular

# Leaves room for a number and a suffix in a file name.
_MAX_STEM_BYTES: Final = 200

_CHUNK_BYTES: Final = 1 << 20


def free_path(directory: str, stem: str, suffix: str, number: int) -> str:
    """Return an unused path in lost+found, with the first free number from ``number`` on."""
    paths = (_path(directory, stem, suffix, n) for n in itertools.count(number))
    return next(path for path in paths if not os.path.lexists(path))


def target_for(directory: str, stem: str, suffix: str, number: int, source: str) -> str:
    """Return the path in lost+found to rename a file to: that of an equal file, or a free one.

    Damage that happens repeatedly must not fill the disk.
    """
    if is_regular(source):
        for path in _candidates(directory, stem, suffix):
            if read_or_error(partial(_are_equal, source, path)) is True:
                return path
    return free_path(directory, stem, suffix, number)


def save_copy(layout: Layout, disk: Disk, stem: str, suffix: str, number: int, data: bytes) -> str:
    """Make ``data`` durable in lost+found, unless it is there, and return its path.

    It is there if a file with this stem, and ``number`` or one of the next numbers, has it.
    """
    directory = layout.lost_and_found
    for used in itertools.count(number):
        target = _path(directory, stem, suffix, used)
        if not os.path.lexists(target):
            break
        if read_or_error(partial(read_regular, target, len(data))) == data:
            return target
    for needed in (directory, layout.temporary):
        disk.make_dir(needed)
    disk.write_atomic(target, data, layout.temporary)
    disk.sync_dir(directory)
    return target


def move_in(layout: Layout, disk: Disk, source: str, stem: str, suffix: str, number: int) -> str:
    """Rename a file of any kind into lost+found, durably, and return its path there."""
    disk.make_dir(layout.lost_and_found)
    target = target_for(layout.lost_and_found, stem, suffix, number, source)
    disk.replace(source, target)
    disk.sync_dir(layout.lost_and_found)
    disk.sync_dir(os.path.dirname(source))
    return target


def _path(directory: str, stem: str, suffix: str, number: int) -> str:
    return f"{directory}{os.sep}{stem[:_MAX_STEM_BYTES]}.{number}{suffix}"


def _candidates(directory: str, stem: str, suffix: str) -> list[str]:
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    start = f"{stem[:_MAX_STEM_BYTES]}."
    paths = (
        f"{directory}{os.sep}{name}"
        for name in sorted(names)
        if name.startswith(start) and name.endswith(suffix)
    )
    return [path for path in paths if is_regular(path)]


def _are_equal(first: str, second: str) -> bool:
    if os.lstat(first).st_size != os.lstat(second).st_size:
        return False
    with open(first, "rb") as one, open(second, "rb") as other:
        while data := one.read(_CHUNK_BYTES):
            if other.read(_CHUNK_BYTES) != data:
                return False
    return True
