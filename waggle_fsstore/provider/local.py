# SPDX-License-Identifier: Apache-2.0
"""The local provider: each environment is a private directory on this machine."""

import errno
import json
import logging
import os
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from waggle_fsstore.domain.defaults import DEFAULT_TRASH_KEEP, DEFAULT_TRASH_MAX
from waggle_fsstore.domain.environment import Capabilities, Environment, Runtime
from waggle_fsstore.domain.errors import ProviderError, RuntimeUnavailableError, WorkspaceGoneError
from waggle_fsstore.domain.execution import Stop
from waggle_fsstore.domain.size import Size
from waggle_fsstore.domain.workspace_file import SANDBOX_HOME
from waggle_fsstore.provider import layout
from waggle_fsstore.provider.background import Background
from waggle_fsstore.provider.host_tools import HostTools, find_host_tools, search_path
from waggle_fsstore.provider.layout import HOME, VENV, Marker
from waggle_fsstore.provider.mounts import mount_of, mount_points
from waggle_fsstore.provider.process_groups import ProcessGroups
from waggle_fsstore.provider.trash import Trash, why_mounted
from waggle_fsstore.provider.workspace_dirs import (
    adopt_root,
    dir_name,
    entries_in,
    make_root,
    original_name,
    why_no_root,
    why_unusable,
    write_new,
)
from waggle_fsstore.service.provider import WITH_PIP, Leftovers

if TYPE_CHECKING:
    from waggle_fsstore.provider.executor import LocalExecutor

_log: Final = logging.getLogger(__name__)

# The program that a runtime needs on the search path. Python is that of the server.
_PROGRAM_OF: Final = {Runtime.NODE: "node", Runtime.SHELL: "sh"}

_VENV_TIMEOUT_S: Final = 300.0
# Why a workspace can stay where it is: a mount, a layer of an overlay, a directory of another user.
_UNMOVABLE: Final = frozenset({errno.EBUSY, errno.EXDEV, errno.EACCES, errno.EPERM})

# The pauses after which a removal is retried.
_REMOVE_PAUSES_S: Final = (0.01, 0.03, 0.1, 0.3, 1.0)


class LocalProvider:
    """Keeps each environment in a directory below ``root``, with its runtime in it.

    The directory is private to the user who runs the server. Isolation is the business of the
    ``executor``; a venv is made by it where it can run programs, else by the server's Python.

    A python environment has a venv in ``.venv``, with pip if its label ``pip`` is ``yes``;
    a node environment is a package; a shell environment is an empty directory. The root
    directory is made by the first :meth:`create`. Once there are workspaces, which
    ``has_workspaces`` says of earlier ones, a missing root directory may be an unmounted
    disk: until it is back, nothing is made, given up or removed. Nothing is synced, so a
    power cut may cost new workspaces. Needs POSIX process groups, so not for Windows.

    A workspace that expired is kept in the trash for ``trash_keep``, in time that servers
    lived through, while all of them take at most ``trash_max``. ``store`` is the path of the
    store whose environments these are, if it has one.
    """

    # An earlier version, to which "local" is its own, would remove what is in error with its files.
    name: Final = "local-2"
    former_names: Final = frozenset({"local"})

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        has_workspaces: bool = False,
        store: str = "",
        trash_keep: timedelta = DEFAULT_TRASH_KEEP,
        trash_max: Size = DEFAULT_TRASH_MAX,
        executor: "LocalExecutor | None" = None,
    ) -> None:
        self._executor = executor
        self._root = os.path.abspath(root)
        self._has_workspaces = has_workspaces
        self._store = os.path.abspath(store) if store else ""
        self._groups = ProcessGroups()
        self._cached_tools: HostTools | None = None
        self._trash = Trash(self._root, trash_keep, trash_max)
        self._emptying = Background(self._trash.empty, "trash")
        if store and mount_of(store) != mount_of(self._root):
            _log.warning(
                "the store %s and its workspaces %s are on different mounts: "
                "back up, keep and mount both of them",
                store,
                self._root,
            )

    @property
    def root(self) -> Path:
        """The absolute path of the directory that holds all workspaces; it may not exist yet."""
        return Path(self._root)

    def create(self, environment: Environment) -> Capabilities:
        """Make the directory and its runtime. Raises if anything exists under its name."""
        self._check_open()
        self._check_root()
        self._check_runtime(environment)
        directory, home = self._directory(environment), self.locate(environment)
        with self._translating_os_errors("make its workspace"):
            make_root(self._root)
            self._has_workspaces = True
            try:
                layout.make(directory)
            except FileExistsError as error:
                raise ProviderError(self.name, "its workspace exists already") from error
            python = ""
            if environment.runtime is Runtime.PYTHON:
                self._make_venv(environment, directory)
                python = _interpreter_of(os.path.join(home, VENV, "bin"))
            elif environment.runtime is Runtime.NODE:
                write_new(os.path.join(home, "package.json"), _package(directory))
            self._check_open()
            Marker(environment.id, environment.runtime, python).write(directory)
        return self.probe(environment)

    def adopt(self, environment: Environment) -> None:
        """Give the workspace of an environment that was once running today's layout and marker."""
        with self._translating_os_errors("take over its workspace"):
            adopt_root(self._root)
            layout.adopt(self._root, environment)

    def probe(self, environment: Environment) -> Capabilities:
        """Return what the directory and the machine offer; starts no program.

        The programs of the machine may have been looked up a minute ago. What a link in the
        workspace points to has no influence on the result.
        """
        with self._translating_os_errors("read its workspace"):
            marker = layout.require(self._root, environment, self.name)
            tools = self._host_tools()
            if environment.runtime is Runtime.PYTHON:
                return self._probe_venv(self.locate(environment), marker, tools)
            program = _PROGRAM_OF[environment.runtime]
            if program not in tools.programs:
                reason = f"the program {program} is no longer on the search path"
                raise ProviderError(self.name, reason)
            return tools.capabilities()

    def locate(self, environment: Environment) -> str:
        """Return the absolute path of the directory with its files."""
        return os.path.join(self._directory(environment), HOME)

    def remove(self, environment: Environment, *, keep: bool = False) -> None:
        """Move its directory to the trash, with what earlier removals left of it.

        The trash is emptied in the background. A workspace that cannot be moved, as one in which
        something is mounted, stays in its place until it can. Without ``keep``, nothing that
        was removed earlier is kept any more either. A creation by this provider object is
        interrupted, and raises. A creation by a killed process may continue for a while:
        :meth:`find_orphans` finds what it makes later.
        """
        if not keep and self._is_root_gone():
            return
        self._check_root()
        name = dir_name(environment.id)
        for pause in _REMOVE_PAUSES_S:
            failure: OSError | None = None
            try:
                if self._move_to_trash(name, keep=keep):
                    self._emptying.start()
                    return
            except OSError as error:
                failure = error
            time.sleep(pause)
        reason = _reason(failure) if failure else "a program keeps writing to it"
        raise ProviderError(self.name, f"cannot remove its workspace: {reason}") from failure

    def has_files(self, environment: Environment) -> bool:
        """Return whether its directory is in its place, or kept in the trash."""
        self._check_root()
        name = dir_name(environment.id)
        with self._translating_os_errors("look for its workspace"):
            newest = self._trash.newest(name)
            return newest is not None or bool(self._entries_of(name))

    def restore(self, environment: Environment) -> None:
        """Move its directory back from the trash. One that is in its place stays there."""
        self._check_root()
        name = dir_name(environment.id)
        with self._translating_os_errors("restore its workspace"):
            newest = self._trash.newest(name)
            is_in_place = bool(self._entries_of(name))
            if newest is not None and newest.in_place == is_in_place:
                with suppress(FileNotFoundError):
                    self._trash.take_back(newest)
                    return
            if not is_in_place:
                raise WorkspaceGoneError(self.name, "its files are gone")

    def tidy(self, lived: timedelta, known: Iterable[str]) -> None:
        """Add to the lived time of the trash, and begin to empty what is due."""
        if self._has_workspaces and why_no_root(self._root):
            return
        with self._translating_os_errors("tidy the trash"):
            try:
                self._trash.live(lived)
                self._trash.move_unmounted({dir_name(environment_id) for environment_id in known})
            finally:
                # Also on a full disk, which has no room for the lived time.
                if not self._trash.is_empty:
                    self._emptying.start()

    def free_space(self, environment: Environment) -> bool:
        """Empty the oldest workspace in the trash or else this one, if that frees room."""
        with self._translating_os_errors("empty the trash"):
            if self._store and os.stat(self._store).st_dev != os.stat(self._root).st_dev:
                return False
            if self._trash.free_space():
                return True
        name = dir_name(environment.id)
        if not self._entries_of(name):
            return False
        self.remove(environment)
        return self._trash.free_space() or not self._entries_of(name)

    @property
    def leftovers(self) -> Leftovers:
        """What is left of removed environments."""
        return Leftovers(self._trash.orphans, self._trash.size_bytes)

    def kept_since(self) -> datetime | None:
        """Return when the oldest workspace that is kept was removed, ``None`` without any."""
        self._check_root()  # On a disk that is not mounted there is more.
        with self._translating_os_errors("look into the trash"):
            return self._trash.kept_since()

    def find_orphans(self, known: Iterable[str]) -> list[str]:
        """Return the entries of the root directory that belong to no ``known`` id, sorted.

        Without the removed workspaces that cannot be moved to the trash.
        """
        names = {dir_name(environment_id) for environment_id in known}
        with self._translating_os_errors("list the workspaces"):
            names |= self._trash.in_place
            found = entries_in(self._root)
            return sorted(entry for entry in found if original_name(entry) not in names)

    def check(self) -> None:
        """Raise if the root directory is missing, unusable, or cannot be made."""
        self._check_open()
        if reason := why_unusable(self._root):
            raise ProviderError(self.name, reason)
        self._check_root()

    def wait_until_emptied(self) -> None:
        """Wait until what is due of the trash is emptied, which :meth:`close` would interrupt."""
        self._emptying.wait()

    def close(self) -> None:
        """Interrupt creations and refuse new ones; all other methods still work.

        The next server empties what is left in the trash.
        """
        self._groups.close()
        self._emptying.stop()

    def _check_open(self) -> None:
        if self._groups.is_closed:
            raise ProviderError(self.name, "the provider was closed")

    def _check_root(self) -> None:
        if self._has_workspaces and (reason := why_no_root(self._root)):
            raise ProviderError(self.name, reason)

    def _is_root_gone(self) -> bool:
        """Return whether the root directory, with all workspaces, is gone for certain.

        It is if it is missing beside a store that is there. An unmounted disk would leave an
        empty directory in its place, or take the store with it.
        """
        is_beside_store = os.path.dirname(self._root) == os.path.dirname(self._store)
        return is_beside_store and os.path.isdir(self._store) and not os.path.lexists(self._root)

    def _check_runtime(self, environment: Environment) -> None:
        if environment.runtime is Runtime.PYTHON:
            reason = _why_no_venv(_wants_pip(environment))
        else:
            program = _PROGRAM_OF[environment.runtime]
            is_found = program in self._host_tools(refresh=True).programs
            reason = "" if is_found else f"the program {program} is not on the search path"
        if reason:
            raise RuntimeUnavailableError(self.name, reason, environment.runtime)

    def _probe_venv(self, home: str, marker: Marker, tools: HostTools) -> Capabilities:
        try:
            mode = layout.look_below(home, VENV, "bin", "python").st_mode
        except (FileNotFoundError, NotADirectoryError) as error:
            raise WorkspaceGoneError(self.name, "its python is gone") from error
        if stat.S_ISLNK(mode):
            # Where it points to is up to the agent. The server knows to what it was made.
            if marker.python and not os.access(marker.python, os.X_OK):
                raise WorkspaceGoneError(self.name, "its python is gone")
        elif not stat.S_ISREG(mode) or not mode & stat.S_IXUSR:
            raise ProviderError(self.name, "its python is not executable")
        own = {"python"}
        with suppress(FileNotFoundError, NotADirectoryError):
            layout.look_below(home, VENV, "bin", "pip")
            own.add("pip")
        # Without the pip of the machine, which would install outside of the venv.
        programs = tools.programs - {"python3", "pip", "pip3"} | own
        path = f"{os.path.join(home, VENV, 'bin')}{os.pathsep}{tools.path}"
        return HostTools(path, programs).capabilities(has_venv=True)

    def _make_venv(self, environment: Environment, directory: str) -> None:
        import subprocess  # Deferred: takes 5 ms, and only this method needs it.

        if self._executor is not None and not self._executor.why_unavailable():
            self._make_venv_inside(environment, self._executor)
            return
        venv = os.path.join(directory, HOME, VENV)
        command = _venv_command(venv, _wants_pip(environment))
        try:
            # In the workspace, so that it cannot start once a removal has renamed that.
            self._groups.run(
                command, directory=directory, path=search_path(), timeout=_VENV_TIMEOUT_S
            )
        except subprocess.SubprocessError as error:
            self._check_open()
            output = getattr(error, "output", None) or b""
            _log.warning("%s: %s", error, output.decode(errors="replace").strip())
            reason = "its venv could not be created"
            if isinstance(error, subprocess.TimeoutExpired):
                reason = f"its venv was not created within {_VENV_TIMEOUT_S:.0f} s"
            elif isinstance(error, subprocess.CalledProcessError) and error.returncode < 0:
                reason = "the creation of its venv was interrupted"
            raise ProviderError(self.name, reason) from error

    def _make_venv_inside(self, environment: Environment, executor: "LocalExecutor") -> None:
        """Make a venv as a program of the environment would, so its scripts name its path there."""
        result = executor.run_in_place(
            environment,
            _venv_command(f"{SANDBOX_HOME}/{VENV}", _wants_pip(environment), executor.python),
            timeout=timedelta(seconds=_VENV_TIMEOUT_S),
            stop=lambda: Stop.SHUTDOWN if self._groups.is_closed else Stop.NONE,
        )
        self._check_open()
        if result.exit_code == 0:
            return
        _log.warning("making a venv: %s %s", result.stopped, result.stderr.strip())
        if result.stopped is Stop.TIMEOUT:
            reason = f"its venv was not created within {_VENV_TIMEOUT_S:.0f} s"
        elif result.stopped:
            reason = "the creation of its venv was interrupted"
        else:
            reason = "its venv could not be created"
        raise ProviderError(self.name, reason)

    def _move_to_trash(self, name: str, *, keep: bool) -> bool:
        """Move what exists of a workspace now, and stop the program that makes it.

        Returns whether nothing is left in the root directory, except for what cannot be moved.
        """
        directory = os.path.join(self._root, name)
        if not keep:
            self._trash.drop(name)
        if mounted := mount_points(directory):
            self._trash.put_in_place(name, keep=keep, reason=why_mounted(mounted[0]))
            return True
        # The workspace itself comes last: so it is what a restore brings back.
        for entry in sorted(self._entries_of(name), key=lambda entry: entry == name):
            try:
                self._trash.put(name, entry, keep=keep)
            except FileNotFoundError:
                continue  # Another process moved it.
            except OSError as error:
                if error.errno not in _UNMOVABLE or why_unusable(self._root):
                    raise
                is_mount = error.errno == errno.EBUSY
                reason = why_mounted("another file system") if is_mount else _reason(error)
                self._trash.put_in_place(name, keep=keep, reason=reason)
                return True
        self._groups.stop(directory)
        return not self._entries_of(name)

    def _directory(self, environment: Environment) -> str:
        return os.path.join(self._root, dir_name(environment.id))

    def _entries_of(self, name: str) -> list[str]:
        return [entry for entry in entries_in(self._root) if original_name(entry) == name]

    def _host_tools(self, *, refresh: bool = False) -> HostTools:
        tools = self._cached_tools
        if refresh or tools is None or tools.is_expired:
            tools = self._cached_tools = find_host_tools()
        return tools

    @contextmanager
    def _translating_os_errors(self, action: str) -> Iterator[None]:
        """Turn an ``OSError`` of the block into a :class:`ProviderError` without its path."""
        try:
            yield
        except OSError as error:
            raise ProviderError(self.name, f"cannot {action}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    # str(error) may contain a path.
    return getattr(error, "strerror", None) or type(error).__name__


def _wants_pip(environment: Environment) -> bool:
    return WITH_PIP.items() <= environment.labels.items()


def _why_no_venv(pip: bool) -> str:
    """Return why no venv can be made here, "" if one can."""
    if not sys.executable or not os.access(sys.executable, os.X_OK):
        return "the Python of the server is gone"
    # Debian has these in separate packages.
    for module in ["venv", "ensurepip"] if pip else ["venv"]:
        if find_spec(module) is None:
            return f"the Python of the server has no module {module}"
    return ""


def _venv_command(directory: str, pip: bool, python: str = "") -> list[str]:
    without = [] if pip else ["--without-pip"]
    return [python or sys.executable, "-I", "-m", "venv", *without, directory]


def _interpreter_of(directory: str) -> str:
    """Return the interpreter that a venv which was just made links to, "" if it has a copy."""
    target = "python"
    while not os.path.isabs(target):
        try:
            target = os.readlink(os.path.join(directory, target))
        except OSError:
            return ""
    return target


def _package(directory: str) -> str:
    # The name is valid for npm with any id: lower case, and none of its reserved names.
    name = f"waggle-{os.path.basename(directory).lstrip('~')}"
    return json.dumps({"name": name, "private": True}, indent=2) + "\n"
