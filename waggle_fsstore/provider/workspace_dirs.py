# SPDX-License-Identifier: Apache-2.0
"""How workspaces stand in their root folder: names, modes, and a removal that leaves nothing.

A workspace is renamed before it is removed, so a half removed one is never mistaken for a
whole one: it is then called ``.removing-NAME-`` and something random.
"""

import errno
import os
import re
import shutil
import stat
from contextlib import suppress
from hashlib import blake2b
from typing import Final

FOLDER_MODE: Final = 0o700
FILE_MODE: Final = 0o600

#: In the root folder. One without it is another one, such as a place where none is mounted.
ROOT_MARKER: Final = ".waggle-workspaces"

_PLAIN: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}")

# Windows keeps these for devices.
_RESERVED: Final = re.compile(r"con|prn|aux|nul|(?:com|lpt)[0-9]")

_REMOVING: Final = ".removing-"

# A workspace is the user's: what stands in it may be a link or a pipe by now.
_READ: Final = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)


def folder_name(environment_id: str) -> str:
    """The folder of an environment: one name, the same for ever, and no other's.

    Names differ in more than upper and lower case. A plain id is its own name.
    """
    if _PLAIN.fullmatch(environment_id) and not _RESERVED.fullmatch(environment_id):
        return environment_id
    return f"~{blake2b(environment_id.encode(), digest_size=16).hexdigest()}"


def removing_name(name: str) -> str:
    """A new name for the folder ``name``, under which it is removed."""
    return f"{_REMOVING}{name}-{os.urandom(8).hex()}"


def original_name(entry: str) -> str:
    """The name that a folder had before it was to be removed; its own if it is not."""
    if entry.startswith(_REMOVING):
        return entry.removeprefix(_REMOVING).rpartition("-")[0]
    return entry


def make_folders(path: str) -> None:
    """Make a folder and those above it, of which only their user sees anything.

    Those that exist are left as they are.
    """
    try:
        try:
            make_folder(path)
        except FileNotFoundError:
            make_folders(os.path.dirname(path))
            make_folder(path)  # Fails where none can be made, as in /proc.
    except FileExistsError:
        if not os.path.isdir(path):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from None


def make_root(path: str) -> None:
    """Make the root folder of workspaces, as far as it is missing."""
    make_folders(path)
    with suppress(FileExistsError):
        write_new(os.path.join(path, ROOT_MARKER), "")


def why_no_root(path: str) -> str:
    """Why the root folder of workspaces is not there, but at most the place of it; "" if it is."""
    if os.path.lexists(os.path.join(path, ROOT_MARKER)):
        return ""
    return (
        "the folder of all workspaces is missing, or another one: mount its disk, or, if it is "
        f"lost, make a new one with an empty file {ROOT_MARKER} in it"
    )


def why_unusable(path: str) -> str:
    """Why no folder can be made in the root folder, or that one not be made; "" if it can."""
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    if not os.path.isdir(path):
        return "what is in the place of its root folder is none"
    return "" if os.access(path, os.W_OK | os.X_OK) else "its root folder cannot be written to"


def make_folder(path: str) -> None:
    """Make a new folder of which only its user sees anything, whatever the umask."""
    os.mkdir(path, FOLDER_MODE)
    os.chmod(path, FOLDER_MODE)


def write_new(path: str, text: str) -> None:
    """Write a new file that only its user can read, whatever the umask."""
    with open(os.open(path, _CREATE, FILE_MODE), "wb") as file:
        os.fchmod(file.fileno(), FILE_MODE)
        file.write(text.encode())


def read_start(path: str, size: int) -> bytes:
    """The first ``size`` bytes of a file; follows no link and waits for no pipe."""
    with open(os.open(path, _READ), "rb") as file:
        return file.read(size)


def remove_entry(path: str) -> None:
    """Remove a file, a link or a folder, never what a link points to.

    Another that removes the same is no error. Raises ``OSError`` if something is left
    because it could not be removed, or because it was written meanwhile.
    """
    with suppress(FileNotFoundError):
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
            return
        # Whatever can go goes; what another removed in the meantime is no error.
        shutil.rmtree(path, ignore_errors=True)
        if os.path.lexists(path):
            _unlock(path)
            shutil.rmtree(path)


def _unlock(path: str) -> None:
    """Make all folders from ``path`` down writable to their user; follows no link."""
    _unlock_one(path)
    for _, names, _, descriptor in os.fwalk(path):
        os.fchmod(descriptor, FOLDER_MODE)
        for name in names:
            _unlock_one(name, descriptor)


def _unlock_one(path: str, descriptor: int | None = None) -> None:
    # Of a link, and on a system that could only follow it, this raises any of these. Such a
    # system leaves it to the fchmod above, which needs a folder that can be read.
    with suppress(OSError, NotImplementedError, ValueError):
        os.chmod(path, FOLDER_MODE, dir_fd=descriptor, follow_symlinks=False)
