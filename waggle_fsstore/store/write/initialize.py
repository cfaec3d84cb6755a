# SPDX-License-Identifier: Apache-2.0
"""Whether a directory is a store, and how it becomes one.

The marker ``waggle.json`` is written last. After a crash before that, the next write
initializes the directory again, and nothing in it is assumed to be durable.
"""

import errno
import os
import stat
from typing import Final

from waggle_fsstore.domain.errors import CorruptDocumentError, UnsupportedFormatError
from waggle_fsstore.store.format import codec
from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.fs.disk import Disk
from waggle_fsstore.store.fs.linux import mount_id
from waggle_fsstore.store.fs.safe_read import read_regular
from waggle_fsstore.store.read.seen_store import SeenStore

APPLICATION: Final = "waggle-fsstore"
FORMAT: Final = 1

MARKER: Final = b'{"application": "%s", "format": %d}\n' % (APPLICATION.encode(), FORMAT)

_MAX_MARKER_BYTES: Final = 4096
_GIT_IGNORE: Final = b".waggle/\njournal/\n"

# A directory that becomes a store may hold the rest of an interrupted first write, and the
# directory that mkfs puts into the root of a file system.
_HARMLESS: Final = frozenset({".waggle", "lost+found"})


def detect(layout: Layout) -> bool:
    """Return whether the root is a store; if not, it is missing or empty, and may become one.

    Changes nothing. Raises :class:`UnsupportedFormatError` for a newer store and for a
    directory of another program, ``NotADirectoryError`` for a link or a file in the way.
    """
    for directory in (layout.environments, layout.internal, layout.journal):
        _refuse_link(directory)
    try:
        marker = read_regular(layout.marker, _MAX_MARKER_BYTES)
    except FileNotFoundError:
        return _is_adoptable(layout)
    version = _version_in(marker, layout.marker)
    if version > FORMAT:
        raise UnsupportedFormatError(layout.marker, version, FORMAT)
    return True


def ensure_lock_dir(layout: Layout, disk: Disk, seen_store: SeenStore) -> None:
    """Make the directory of the lock file, and the root.

    Raises what :func:`detect` raises, and :class:`StoreGoneError` instead of making a root
    where a store was.
    """
    seen_store.check()
    detect(layout)
    refuse_mounts(layout)
    disk.make_dir(layout.internal)


def initialize(layout: Layout, disk: Disk) -> None:
    """Make the missing directories and files of a store; remove temp files of dead writers.

    Runs under the store lock. It can be repeated, and interrupted anywhere. Raises what
    :func:`refuse_mounts` raises.
    """
    refuse_mounts(layout)
    for directory in (layout.internal, layout.temporary, layout.environments, layout.journal):
        disk.make_dir(directory)
    disk.clear_temp_files(layout.temporary)
    # The process that made the directories above may have died before it synced them.
    _sync_ancestors(layout.environments, disk)
    if os.path.lexists(layout.marker):
        return
    if not os.path.lexists(layout.git_ignore):
        disk.write_atomic(layout.git_ignore, _GIT_IGNORE, layout.temporary)
    disk.write_atomic(layout.marker, MARKER, layout.temporary)
    disk.sync_dir(layout.root)


def refuse_mounts(layout: Layout) -> None:
    """Raise ``OSError`` with ``EXDEV`` if a directory of the store is a separate mount.

    No file could be renamed into it, which would surface in the middle of a change only.
    """
    root = _mount_of(layout.root)
    for directory in (
        layout.environments,
        layout.journal,
        layout.internal,
        layout.temporary,
        layout.lost_and_found,
    ):
        if root is not None and _mount_of(directory) not in (None, root):
            raise OSError(
                errno.EXDEV,
                "is a separate mount: unmount it, and mount the whole store instead",
                directory,
            )


def _mount_of(directory: str) -> tuple[int, int] | None:
    """Return the device and the mount of a directory; ``None`` if it does not exist yet."""
    try:
        return os.stat(directory).st_dev, mount_id(directory)
    except FileNotFoundError:
        return None


def _version_in(marker: bytes, path: str) -> int:
    """Return the format version in a marker.

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


def _refuse_link(directory: str) -> None:
    """Refuse a link, which would lead out of the root and perhaps to another file system."""
    try:
        mode = os.lstat(directory).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(mode):
        raise NotADirectoryError(
            errno.ENOTDIR, "must be a directory: move this file or link away", directory
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
    """Sync all parent directories in this file system that this user may have made."""
    device = os.stat(path).st_dev
    parent = os.path.dirname(path)
    while parent != path and os.stat(parent).st_dev == device:
        try:
            disk.sync_dir(parent)
        except PermissionError:
            return  # This user has made none that this user may not read.
        path, parent = parent, os.path.dirname(parent)
