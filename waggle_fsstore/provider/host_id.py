# SPDX-License-Identifier: Apache-2.0
"""The identity of a host: a UUID in the directory of its workspaces, which moves with it."""

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
    known = read_host_id(root)
    if known is not None:
        return known
    make_dirs(root)
    temp = os.path.join(root, f"{HOST_ID}.{uuid.uuid4().hex}")
    write_new(temp, f"{uuid.uuid4()}\n")
    try:
        _sync(temp)
        with suppress(FileExistsError):
            os.link(temp, os.path.join(root, HOST_ID))
    finally:
        os.unlink(temp)
    _sync(root)
    found = read_host_id(root)
    if found is None:
        raise FileNotFoundError(2, "the file of the host was removed", os.path.join(root, HOST_ID))
    return found


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
