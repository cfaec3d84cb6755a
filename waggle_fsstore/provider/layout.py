# SPDX-License-Identifier: Apache-2.0
"""The layout of a workspace: what the agent may change, and the marker, which it may not.

::

    NAME/                   the server's
      .waggle-workspace     the marker: which environment this is, and that it is complete
      home/                 the agent's: the files of the environment
      tmp/                  the agent's: its temp files

In earlier versions the files were directly in ``NAME/``, with the marker among them.
:func:`adopt` moves those, and restores a marker that a backup left out.
"""

import errno
import json
import os
import stat
from contextlib import suppress
from typing import Final, NamedTuple, Self

from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.errors import ProviderError, WorkspaceGoneError
from waggle_fsstore.provider.mounts import mount_points
from waggle_fsstore.provider.workspace_dirs import (
    adopting_name,
    dir_name,
    make_dir,
    move,
    read_start,
    why_no_root,
    write_new,
)

HOME: Final = "home"
TMP: Final = "tmp"
VENV: Final = ".venv"
_MARKER: Final = ".waggle-workspace"

_LAYOUT: Final = 2
_FLAT: Final = 1

_MAX_MARKER_BYTES: Final = 16_384


class Marker(NamedTuple):
    """What the marker of a workspace says.

    - ``python``: the interpreter of this machine that its venv links to, "" if unknown. The
      link itself is the agent's, and says nothing about this machine.
    """

    id: str
    runtime: str
    python: str = ""
    layout: int = _LAYOUT

    @classmethod
    def read(cls, directory: str) -> Self | None:
        """Return the marker in a directory, ``None`` if it is missing or is none.

        In a workspace of an earlier version the agent can have put anything in its place.
        """
        try:
            text = read_start(os.path.join(directory, _MARKER), _MAX_MARKER_BYTES)
            values = json.loads(text)
            return cls(
                str(values["id"]),
                str(values["runtime"]),
                str(values.get("python", "")),
                int(values.get("layout", _FLAT)),
            )
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ELOOP):
                raise
            return None
        except (ValueError, LookupError, TypeError, ArithmeticError, RecursionError):
            return None

    def write(self, directory: str) -> None:
        """Write the marker into a directory, which makes the workspace complete."""
        path = os.path.join(directory, _MARKER)
        with suppress(FileNotFoundError):
            os.unlink(path)
        write_new(path, json.dumps(self._asdict()) + "\n")

    def is_of(self, environment: Environment) -> bool:
        """Return whether it belongs to this environment."""
        return (self.id, self.runtime) == (environment.id, environment.runtime)

    @property
    def is_current(self) -> bool:
        """Whether the workspace has today's layout."""
        return self.layout == _LAYOUT


def make(directory: str) -> None:
    """Make a new workspace without a marker. Raises ``FileExistsError`` if anything exists."""
    make_dir(directory)
    for name in (HOME, TMP):
        make_dir(os.path.join(directory, name))


def adopt(root: str, environment: Environment) -> None:
    """Give the workspace of an environment that was once running today's layout and a marker.

    Does nothing to a workspace that has them, is missing, or belongs to another environment.
    Each step is one rename or can be repeated, so that the next call finishes this one.
    """
    name = dir_name(environment.id)
    directory, staging = os.path.join(root, name), os.path.join(root, adopting_name(name))
    if _is_flat(directory, environment) and not os.path.lexists(os.path.join(staging, HOME)):
        if mounted := mount_points(directory):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), mounted[0])
        with suppress(FileExistsError):
            make_dir(staging)
        move(directory, os.path.join(staging, HOME))
    if os.path.lexists(os.path.join(staging, HOME)):
        _keep_path_of_venv(staging)
        _complete(staging, environment)
        os.rename(staging, directory)
    elif _has_home(directory) and Marker.read(directory) is None:
        _complete(directory, environment)


def require(root: str, environment: Environment, provider: str) -> Marker:
    """Return the marker of the complete workspace of an environment.

    Raises :class:`WorkspaceGoneError` if it is gone or broken, and :class:`ProviderError`, with the
    name of the ``provider``, if that cannot be said now.
    """
    directory = os.path.join(root, dir_name(environment.id))
    try:
        mode = os.lstat(directory).st_mode
    except FileNotFoundError as error:
        if reason := why_no_root(root):
            raise ProviderError(provider, reason) from error
        raise WorkspaceGoneError(provider, "its workspace is gone") from error
    if not stat.S_ISDIR(mode):
        raise WorkspaceGoneError(provider, "its workspace is not a directory")
    marker = Marker.read(directory)
    if marker is None:
        raise WorkspaceGoneError(provider, "its workspace is incomplete")
    if not marker.is_of(environment):
        raise WorkspaceGoneError(provider, "its workspace was made for another environment")
    if not marker.is_current:
        raise ProviderError(provider, "its workspace was made by another version")
    try:
        is_whole = stat.S_ISDIR(look_below(directory, HOME).st_mode)
    except FileNotFoundError:
        is_whole = False
    if not is_whole:
        raise WorkspaceGoneError(provider, "its files are gone")
    return marker


def look_below(directory: str, *names: str) -> os.stat_result:
    """Return the status of ``directory/names...``, or of the first link on the way there.

    Follows no link: what a link points to is not the server's business. Raises
    ``FileNotFoundError`` or ``NotADirectoryError`` if nothing is there.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    current = os.open(directory, flags)
    try:
        for name in names[:-1]:
            status = os.stat(name, dir_fd=current, follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                return status
            below = os.open(name, flags, dir_fd=current)
            os.close(current)
            current = below
        return os.stat(names[-1], dir_fd=current, follow_symlinks=False)
    finally:
        os.close(current)


def _complete(directory: str, environment: Environment) -> None:
    """Add what is missing beside ``home``; the marker comes last."""
    home = os.path.join(directory, HOME)
    old = Marker.read(home)
    if old is not None and not old.is_current and old.is_of(environment):
        os.unlink(os.path.join(home, _MARKER))
    with suppress(FileExistsError):
        make_dir(os.path.join(directory, TMP))
    Marker(environment.id, environment.runtime).write(directory)


def _keep_path_of_venv(directory: str) -> None:
    """Link to a venv from where it was made, because its scripts name that path."""
    if _is_directory(os.path.join(directory, HOME, VENV)):
        with suppress(FileExistsError):
            os.symlink(os.path.join(HOME, VENV), os.path.join(directory, VENV))


def _is_flat(directory: str, environment: Environment) -> bool:
    """Return whether this is a workspace of an earlier version, with or without its marker."""
    if not _is_directory(directory):
        return False
    marker = Marker.read(directory)
    if marker is not None:
        return not marker.is_current and marker.layout == _FLAT and marker.is_of(environment)
    # Today's layout has at most a link to the venv beside ``home``.
    if not _has_home(directory) or _is_directory(os.path.join(directory, VENV)):
        return True
    return not {HOME, TMP, VENV, _MARKER}.issuperset(os.listdir(directory))


def _has_home(directory: str) -> bool:
    return _is_directory(os.path.join(directory, HOME))


def _is_directory(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
