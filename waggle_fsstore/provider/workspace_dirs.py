# SPDX-License-Identifier: Apache-2.0
"""Workspace directories on disk: their names, their modes, and their removal.

A workspace is renamed to ``.removing-NAME-RANDOM`` before it is removed, so that a partly
removed workspace never passes for a complete one.
"""

import errno
import os
import re
import shutil
import stat
from contextlib import suppress
from hashlib import blake2b
from typing import Final

DIR_MODE: Final = 0o700
FILE_MODE: Final = 0o600

#: In the root directory. A directory without it is another one, such as an empty mount point.
ROOT_MARKER: Final = ".waggle-workspaces"

_PLAIN_ID: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}")

# Names of devices on Windows.
_RESERVED_NAME: Final = re.compile(r"con|prn|aux|nul|(?:com|lpt)[0-9]")

_REMOVING_PREFIX: Final = ".removing-"

# A workspace belongs to its user, who can replace any file by a link or a pipe.
_READ_FLAGS: Final = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_CREATE_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)


def dir_name(environment_id: str) -> str:
    """Return the directory name of an environment, which is unique and never changes.

    Names are distinct where case is ignored too. A plain id is its own name.
    """
    if _PLAIN_ID.fullmatch(environment_id) and not _RESERVED_NAME.fullmatch(environment_id):
        return environment_id
    return f"~{blake2b(environment_id.encode(), digest_size=16).hexdigest()}"


def removal_name(name: str) -> str:
    """Return a new name for the directory ``name``, under which to remove it."""
    return f"{_REMOVING_PREFIX}{name}-{os.urandom(8).hex()}"


def original_name(entry: str) -> str:
    """Return the name that a directory had before it was renamed for its removal, if it was."""
    if entry.startswith(_REMOVING_PREFIX):
        return entry.removeprefix(_REMOVING_PREFIX).rpartition("-")[0]
    return entry


def make_dirs(path: str) -> None:
    """Make a directory and its missing parents, private to their user.

    Existing directories keep their mode.
    """
    try:
        try:
            make_dir(path)
        except FileNotFoundError:
            make_dirs(os.path.dirname(path))
            make_dir(path)  # Raises where no directory can be made, as in /proc.
    except FileExistsError:
        if not os.path.isdir(path):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from None


def make_root(path: str) -> None:
    """Make what is missing of the root directory: parents, directory, marker."""
    make_dirs(path)
    with suppress(FileExistsError):
        write_new(os.path.join(path, ROOT_MARKER), "")


def why_no_root(path: str) -> str:
    """Return why the root directory, once made, is missing or another one; "" if it is not."""
    if os.path.lexists(os.path.join(path, ROOT_MARKER)):
        return ""
    return (
        "the workspaces directory is missing or is a different one: mount its disk or, if it is "
        f"lost, make a new directory with an empty file {ROOT_MARKER} in it"
    )


def why_unusable(path: str) -> str:
    """Return why no directory can be made in the root directory, or not the root; else ""."""
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    if not os.path.isdir(path):
        return "the workspaces path is not a directory"
    return "" if os.access(path, os.W_OK | os.X_OK) else "the workspaces directory is not writable"


def make_dir(path: str) -> None:
    """Make a new directory that is private to its user, with any umask."""
    os.mkdir(path, DIR_MODE)
    os.chmod(path, DIR_MODE)


def write_new(path: str, text: str) -> None:
    """Write a new file that is private to its user, with any umask."""
    with open(os.open(path, _CREATE_FLAGS, FILE_MODE), "wb") as file:
        os.fchmod(file.fileno(), FILE_MODE)
        file.write(text.encode())


def read_start(path: str, size: int) -> bytes:
    """Return the first ``size`` bytes of a file; follow no link and wait for no pipe."""
    with open(os.open(path, _READ_FLAGS), "rb") as file:
        return file.read(size)


def remove_entry(path: str) -> None:
    """Remove a file, a link or a directory, but never the target of a link.

    Another process may remove the same concurrently. Raises ``OSError`` if something is
    left, because it could not be removed or was written in the meantime.
    """
    with suppress(FileNotFoundError):
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
            return
        # Removes what it can. Errors do not matter yet, such as a concurrent removal.
        shutil.rmtree(path, ignore_errors=True)
        if os.path.lexists(path):
            _make_writable(path)
            shutil.rmtree(path)


def _make_writable(path: str) -> None:
    """Make all directories from ``path`` down writable for their user; follow no link."""
    _make_one_writable(path)
    for _, names, _, descriptor in os.fwalk(path):
        os.fchmod(descriptor, DIR_MODE)
        for name in names:
            _make_one_writable(name, descriptor)


def _make_one_writable(path: str, descriptor: int | None = None) -> None:
    # Each of these may be raised for a link, or on a system that cannot chmod without following
    # links. There the fchmod above does it, if the directory is readable.
    with suppress(OSError, NotImplementedError, ValueError):
        os.chmod(path, DIR_MODE, dir_fd=descriptor, follow_symlinks=False)
