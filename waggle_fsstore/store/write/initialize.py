# SPDX-License-Identifier: Apache-2.0
"""Founding: whether a folder is a store, and how it becomes one.

The marker ``waggle.json`` comes last. Whatever a crash leaves before it is still a
folder that the next first write founds, and without it nothing is taken for durable.
"""

import errno
import os
import stat
from typing import Final

from waggle_fsstore.domain.errors import CorruptDocumentError, UnsupportedFormatError
from waggle_fsstore.store.format import codec
from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.fs.disk import Disk, temp_path
from waggle_fsstore.store.fs.safe_read import read_regular

APPLICATION: Final = "waggle-fsstore"
FORMAT: Final = 1

MARKER: Final = b'{"application": "%s", "format": %d}\n' % (APPLICATION.encode(), FORMAT)

_MAX_MARKER_BYTES: Final = 4096
_GIT_IGNORE: Final = b".waggle/\njournal/\n"

# What a folder may hold that becomes a store: what a start leaves that was cut short, and
# what mkfs puts into the root of a file system.
_HARMLESS: Final = frozenset({".waggle", "lost+found"})


def detect(layout: Layout) -> bool:
    """Whether the root is a store; if not, it is missing or empty, and may become one.

    Changes nothing. Raises :class:`UnsupportedFormatError` for a newer store and for a
    folder that belongs to somebody else, ``NotADirectoryError`` for what is no folder.
    """
    for folder in (layout.environments, layout.internal, layout.journal):
        _refuse_link(folder)
    try:
        marker = read_regular(layout.marker, _MAX_MARKER_BYTES)
    except FileNotFoundError:
        return _is_adoptable(layout)
    version = _version_in(marker, layout.marker)
    if version > FORMAT:
        raise UnsupportedFormatError(layout.marker, version, FORMAT)
    return True


def ensure_lock_dir(layout: Layout, disk: Disk) -> None:
    """Make the folder of the lock, with the root, unless that belongs to somebody else."""
    detect(layout)
    disk.make_dir(layout.internal)


def initialize(layout: Layout, disk: Disk) -> None:
    """Make what is missing of a store, and clear away what dead writers left.

    Only under the store lock. It can be repeated, and cut short anywhere.
    """
    for folder in (layout.internal, layout.temporary, layout.environments, layout.journal):
        disk.make_dir(folder)
    disk.clear_temp_files(layout.temporary)
    # Whoever made the folders above may have died, or not cared, before it flushed them.
    _sync_ancestors(layout.environments, disk)
    if os.path.lexists(layout.marker):
        return
    if not os.path.lexists(layout.git_ignore):
        _put(layout, disk, layout.git_ignore, _GIT_IGNORE)
    _put(layout, disk, layout.marker, MARKER)
    disk.sync_dir(layout.root)


def _version_in(marker: bytes, path: str) -> int:
    """The format version of the store that a marker marks.

    Raises :class:`CorruptDocumentError`, and :class:`UnsupportedFormatError` when
    another application wrote it.
    """
    document = codec.parse_object(marker, path)
    application = document.get("application")
    if application != APPLICATION:
        raise UnsupportedFormatError(path, f"it belongs to {application!r:.100}", FORMAT)
    version = document.get("format")
    if type(version) is not int or version < 1:
        raise CorruptDocumentError(path, f"format: {version!r:.100} is not a positive integer")
    return version


def _put(layout: Layout, disk: Disk, path: str, data: bytes) -> None:
    source = temp_path(layout.temporary)
    disk.write_temp(source, data)
    disk.replace(source, path)


def _refuse_link(folder: str) -> None:
    """A link would lead out of the root, and perhaps to another file system."""
    try:
        mode = os.lstat(folder).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(mode):
        raise NotADirectoryError(
            errno.ENOTDIR, "is in the way of a folder of the store: move it away", folder
        )


def _is_adoptable(layout: Layout) -> bool:
    try:
        names = set(os.listdir(layout.root))
    except FileNotFoundError:
        return False
    if os.path.basename(layout.environments) in names:
        return True
    if names <= _HARMLESS:
        return False
    raise UnsupportedFormatError(
        layout.root, f"it has no {os.path.basename(layout.marker)} and holds other files", FORMAT
    )


def _sync_ancestors(path: str, disk: Disk) -> None:
    """Flush the folders above, as far as whoever made this one can have made them too."""
    device = os.stat(path).st_dev
    parent = os.path.dirname(path)
    while parent != path and os.stat(parent).st_dev == device:
        try:
            disk.sync_dir(parent)
        except PermissionError:
            return  # Not ours to read, so not ours to have made.
        path, parent = parent, os.path.dirname(parent)
