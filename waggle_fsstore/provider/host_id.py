# SPDX-License-Identifier: Apache-2.0
"""The identity of a host: a UUID in the directory of its workspaces, which moves with it."""

import errno
import os
import uuid
from contextlib import suppress
from typing import Final

from waggle_fsstore.provider.workspace_dirs import HOST_ID, make_dirs, read_start, write_new

_MAX_BYTES: Final = 100


def read_host_id(root: str) -> str | None:
    """Return the id of the host whose workspaces are in a directory, ``None`` without one.

    Raises ``OSError``, and ``ValueError`` for a file that has no UUID.
    """
    path = os.path.join(root, HOST_ID)
    try:
        text = read_start(path, _MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return str(uuid.UUID(text.decode("ascii").strip()))
    except ValueError:
        raise ValueError(f"{path} has no UUID: restore it from a backup") from None


def make_host_id(root: str) -> str:
    """Return the id of the host whose workspaces are in a directory, a new one if it has none.

    The id survives a power cut once this returns. Of processes that do this at once, all get
    the same id. Raises what :func:`read_host_id` raises.
    """
    path = os.path.join(root, HOST_ID)
    if read_host_id(root) is None:
        _make(root, path)
    # Also one that is there: the process that made it may have died before this.
    _sync(path)
    _sync_directories(root)
    found = read_host_id(root)
    if found is None:
        raise FileNotFoundError(errno.ENOENT, "the id of the host was removed just now", path)
    return found


def _make(root: str, path: str) -> None:
    """Make the file, unless another process has."""
    make_dirs(root)
    temp = f"{path}.{uuid.uuid4().hex}"
    write_new(temp, f"{uuid.uuid4()}\n")
    try:
        _sync(temp)
        with suppress(FileExistsError):
            os.link(temp, path)
    finally:
        os.unlink(temp)


def _sync_directories(path: str) -> None:
    """Sync a directory and those above it, of which the last may just have been made."""
    path = os.path.abspath(path)
    while True:
        with suppress(PermissionError):  # Not one that this user has made.
            _sync(path)
        if path == os.path.dirname(path):
            return
        path = os.path.dirname(path)


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
