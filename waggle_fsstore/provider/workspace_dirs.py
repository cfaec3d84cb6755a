# SPDX-License-Identifier: Apache-2.0
"""The root directory and what is directly in it: names, modes, and moves.

``NAME/`` belongs to an environment; the package ``layout`` says what is in it. ``.trash`` has
what was removed. Where several hosts share a store, ``.host-id`` says which one this is, and
``.servers`` has the locks of its servers. ``.packages`` has what is downloaded for installations.
"""

import errno
import os
import re
import stat
from contextlib import suppress
from hashlib import blake2b
from typing import Final

DIR_MODE: Final = 0o700
FILE_MODE: Final = 0o600

#: In the root directory. A directory without it is another one, such as an empty mount point.
ROOT_MARKER: Final = ".waggle-root"

#: The same in earlier versions, which take a root directory without it for one that is not
#: mounted: so they touch nothing in a root directory with today's layout.
OLD_ROOT_MARKER: Final = ".waggle-workspaces"

#: In the root directory: what was removed.
TRASH: Final = ".trash"

#: In the root directory: the id of this host, and the locks of its servers.
HOST_ID: Final = ".host-id"
SERVERS: Final = ".servers"

#: In the root directory: what is downloaded for installations of packages, while they run.
PACKAGES: Final = ".packages"

_PLAIN_ID: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}")

# Names of devices on Windows.
_RESERVED_NAME: Final = re.compile(r"con|prn|aux|nul|(?:com|lpt)[0-9]")

# What an earlier version had begun to remove, and what is being moved to today's layout.
_REMOVING_PREFIX: Final = ".removing-"
_ADOPTING_PREFIX: Final = ".adopting-"

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


def adopting_name(name: str) -> str:
    """Return the name that the directory ``name`` has while it gets today's layout."""
    return f"{_ADOPTING_PREFIX}{name}"


def original_name(entry: str) -> str:
    """Return the name that a directory had before it was renamed, if it was."""
    if entry.startswith(_REMOVING_PREFIX):
        return entry.removeprefix(_REMOVING_PREFIX).rpartition("-")[0]
    return entry.removeprefix(_ADOPTING_PREFIX)


def entries_in(root: str) -> list[str]:
    """Return the names of the directories of environments, and of anything foreign."""
    own = (ROOT_MARKER, OLD_ROOT_MARKER, TRASH, SERVERS, PACKAGES)
    try:
        entries = os.listdir(root)
        return [one for one in entries if one not in own and not one.startswith(HOST_ID)]
    except FileNotFoundError:
        return []


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
    """Make what is missing of the root directory: parents, directory, trash, marker.

    The trash is made before there is a workspace, because a full disk has no room for it.
    """
    make_dirs(path)
    adopt_root(path)
    with suppress(FileExistsError):
        make_dir(os.path.join(path, TRASH))
    with suppress(FileExistsError):
        write_new(os.path.join(path, ROOT_MARKER), "")


def adopt_root(path: str) -> None:
    """Give the root directory of an earlier version today's marker, which locks that one out."""
    with suppress(FileNotFoundError):
        os.rename(os.path.join(path, OLD_ROOT_MARKER), os.path.join(path, ROOT_MARKER))


def why_no_root(path: str) -> str:
    """Return why the root directory, once made, is missing or another one; "" if it is not."""
    for marker in (ROOT_MARKER, OLD_ROOT_MARKER):
        if os.path.lexists(os.path.join(path, marker)):
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
    """Return the first ``size`` bytes of a file, none of anything else, such as a pipe.

    Raises ``OSError`` (ELOOP) for a link.
    """
    descriptor = os.open(path, _READ_FLAGS)
    try:
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        return os.read(descriptor, size) if is_file else b""
    finally:
        os.close(descriptor)


def move(source: str, target: str) -> None:
    """Rename a directory that is no mount point, also one that its user may not write to."""
    try:
        os.rename(source, target)
    except PermissionError:
        # A directory that is not writable keeps its parent. Root-owned ones stay as they are.
        os.chmod(source, DIR_MODE, follow_symlinks=False)
        os.rename(source, target)
