# SPDX-License-Identifier: Apache-2.0
"""The embedded provider: each environment is a private folder on this machine."""

import json
import logging
import os
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from waggle_fsstore.domain.environment import Capabilities, Environment, Runtime
from waggle_fsstore.domain.errors import (
    ProviderError,
    RuntimeUnavailableError,
    WorkspaceGoneError,
)
from waggle_fsstore.provider.host_tools import Machine, search, search_path
from waggle_fsstore.provider.process_groups import Running
from waggle_fsstore.provider.workspace_dirs import (
    ROOT_MARKER,
    folder_name,
    make_folder,
    make_root,
    original_name,
    read_start,
    remove_entry,
    removing_name,
    why_no_root,
    why_unusable,
    write_new,
)
from waggle_fsstore.service.provider import WITH_PIP

_log: Final = logging.getLogger(__name__)

_MARKER: Final = ".waggle-workspace"
_VENV: Final = ".venv"

#: The program without which a runtime cannot be; python is the server's own.
_PROGRAMS: Final = {Runtime.NODE: "node", Runtime.SHELL: "sh"}

#: For how many seconds a venv may be in the making.
_VENV_TIMEOUT: Final = 300.0
#: The pauses, in seconds, after which a removal is tried again.
_PAUSES: Final = (0.01, 0.03, 0.1, 0.3, 1.0)


class LocalProvider:
    """Keeps each environment in a folder of its own below ``root``, with its runtime in it.

    Nothing is isolated: the programs of an environment run as the user who runs the
    server, and can do all that this user can. The folder is private to this user.

    A python environment has a venv in ``.venv``, with pip if its label ``pip`` is ``yes``;
    a node environment is a package; a shell environment is a bare folder. Nothing is
    created before the first :meth:`create`. Once there are workspaces, as
    ``has_workspaces`` says of earlier ones, nothing is made, judged or removed while the
    root folder is not there: its disk may not be mounted. A power cut may cost what was
    just made: nothing is flushed. Not for Windows, which has no process groups of this kind.
    """

    name: Final = "local"

    def __init__(self, root: str | os.PathLike[str], *, has_workspaces: bool = False) -> None:
        self._root = os.path.abspath(root)
        self._has_workspaces = has_workspaces
        self._running = Running()
        self._last_search: Machine | None = None

    @property
    def root(self) -> Path:
        """The folder that holds all workspaces, absolute; it need not exist yet."""
        return Path(self._root)

    def create(self, environment: Environment) -> Capabilities:
        """Make the folder and its runtime; raises if anything is there under its name."""
        self._check_open()
        self._check_root()
        self._check_runtime(environment)
        workspace = self.locate(environment)
        with self._told("make its workspace"):
            make_root(self._root)
            self._has_workspaces = True
            try:
                make_folder(workspace)
            except FileExistsError as error:
                raise ProviderError(self.name, "its workspace is there already") from error
            if environment.runtime is Runtime.PYTHON:
                self._make_venv(environment, workspace)
            elif environment.runtime is Runtime.NODE:
                write_new(os.path.join(workspace, "package.json"), _package(workspace))
            self._check_open()
            write_new(os.path.join(workspace, _MARKER), _marker(environment))
        return self.probe(environment)

    def probe(self, environment: Environment) -> Capabilities:
        """What the folder and the machine offer; starts no program.

        What is installed on the machine may have been looked up a minute ago.
        """
        with self._told("look into its workspace"):
            workspace = self.locate(environment)
            self._check_workspace(environment, workspace)
            machine = self._search()
            if environment.runtime is Runtime.PYTHON:
                return self._probe_venv(os.path.join(workspace, _VENV, "bin"), machine)
            program = _PROGRAMS[environment.runtime]
            if program not in machine.programs:
                raise ProviderError(self.name, f"there is no program {program} any more")
            return machine.capabilities()

    def locate(self, environment: Environment) -> str:
        """The absolute path of its folder."""
        return os.path.join(self._root, folder_name(environment.id))

    def remove(self, environment: Environment) -> None:
        """Remove its folder with all that is in it, and what earlier removals left of it.

        Its creation by this provider is cut short, and raises. That by a process which
        was killed may go on for a while: what it makes later is found by
        :meth:`find_strays`.
        """
        self._check_root()
        name = folder_name(environment.id)
        for pause in _PAUSES:
            failure: Exception | None = None
            try:
                self._clear(name)
                if not self._entries_of(name):
                    return
            except (OSError, RecursionError) as error:  # The latter: too deeply nested.
                failure = error
            time.sleep(pause)
        reason = _reason(failure) if failure else "something goes on writing into it"
        raise ProviderError(self.name, f"cannot remove its workspace: {reason}") from failure

    def find_strays(self, known: Iterable[str]) -> list[str]:
        """The names of what is in the root folder and belongs to none of these ids, sorted."""
        names = {folder_name(environment_id) for environment_id in known}
        with self._told("list the workspaces"):
            return sorted(entry for entry in self._entries() if original_name(entry) not in names)

    def check(self) -> None:
        """Raise if the root folder is none, not there, or cannot be made or written to."""
        self._check_open()
        if reason := why_unusable(self._root):
            raise ProviderError(self.name, reason)
        self._check_root()

    def close(self) -> None:
        """Cut short what is being created, create no more; all else still works."""
        self._running.close()

    def _check_open(self) -> None:
        if self._running.is_closed:
            raise ProviderError(self.name, "the provider was closed")

    def _check_root(self) -> None:
        if self._has_workspaces and (reason := why_no_root(self._root)):
            raise ProviderError(self.name, reason)

    def _check_runtime(self, environment: Environment) -> None:
        if environment.runtime is Runtime.PYTHON:
            reason = _why_no_venv(_wants_pip(environment))
        elif (program := _PROGRAMS[environment.runtime]) not in self._search(anew=True).programs:
            reason = f"there is no program {program} on the search path"
        else:
            reason = ""
        if reason:
            raise RuntimeUnavailableError(self.name, reason, environment.runtime)

    def _check_workspace(self, environment: Environment, workspace: str) -> None:
        """Raise unless it is the workspace of this environment, and whole."""
        try:
            mode = os.lstat(workspace).st_mode
        except FileNotFoundError as error:
            if reason := why_no_root(self._root):
                raise ProviderError(self.name, reason) from error
            raise WorkspaceGoneError(self.name, "its workspace is gone") from error
        if not stat.S_ISDIR(mode):
            raise WorkspaceGoneError(
                self.name, "what is in the place of its workspace is no folder"
            )
        expected = _marker(environment).encode()
        try:
            found = read_start(os.path.join(workspace, _MARKER), len(expected) + 1)
        except FileNotFoundError:
            found = b""
        if found == expected:
            return
        is_start = expected.startswith(found)
        reason = "is half made" if is_start else "was made for another environment"
        raise WorkspaceGoneError(self.name, f"its workspace {reason}")

    def _probe_venv(self, folder: str, machine: Machine) -> Capabilities:
        python = os.path.join(folder, "python")
        try:
            mode = os.stat(python).st_mode
        except (FileNotFoundError, NotADirectoryError) as error:
            raise WorkspaceGoneError(self.name, "its python is gone") from error
        if not stat.S_ISREG(mode) or not os.access(python, os.X_OK):
            raise ProviderError(self.name, "its python cannot be executed")
        own = {"python"}
        if os.access(os.path.join(folder, "pip"), os.X_OK):
            own.add("pip")
        # Without those of the machine: its pip would install somewhere else.
        programs = machine.programs - {"python3", "pip", "pip3"} | own
        return Machine(f"{folder}{os.pathsep}{machine.path}", programs).capabilities(has_venv=True)

    def _make_venv(self, environment: Environment, workspace: str) -> None:
        import subprocess  # Takes 5 ms, and only this needs it.

        command = _venv_command(os.path.join(workspace, _VENV), _wants_pip(environment))
        try:
            # In the folder, so that nothing starts once a removal took that away.
            self._running.run(command, folder=workspace, path=search_path(), timeout=_VENV_TIMEOUT)
        except subprocess.SubprocessError as error:
            self._check_open()
            output = getattr(error, "output", None) or b""
            _log.warning("%s: %s", error, output.decode(errors="replace").strip())
            reason = "its venv cannot be made"
            if isinstance(error, subprocess.TimeoutExpired):
                reason = f"its venv was not made within {_VENV_TIMEOUT:.0f} s"
            elif isinstance(error, subprocess.CalledProcessError) and error.returncode < 0:
                reason = "the making of its venv was cut short"
            raise ProviderError(self.name, reason) from error

    def _clear(self, name: str) -> None:
        """Take away what is there of a workspace now, and stop who makes it."""
        workspace = os.path.join(self._root, name)
        with suppress(FileNotFoundError):
            os.rename(workspace, os.path.join(self._root, removing_name(name)))
        self._running.stop(workspace)
        for entry in self._entries_of(name):
            remove_entry(os.path.join(self._root, entry))

    def _entries(self) -> list[str]:
        try:
            return [entry for entry in os.listdir(self._root) if entry != ROOT_MARKER]
        except FileNotFoundError:
            return []

    def _entries_of(self, name: str) -> list[str]:
        return [entry for entry in self._entries() if original_name(entry) == name]

    def _search(self, *, anew: bool = False) -> Machine:
        machine = self._last_search
        if anew or machine is None or machine.is_outdated:
            machine = self._last_search = search()
        return machine

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Tell in one line what the operating system reports."""
        try:
            yield
        except OSError as error:
            raise ProviderError(self.name, f"cannot {what}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    # Without the paths that are in str(error).
    return getattr(error, "strerror", None) or type(error).__name__


def _wants_pip(environment: Environment) -> bool:
    return WITH_PIP.items() <= environment.labels.items()


def _why_no_venv(pip: bool) -> str:
    """Why no venv can be made here, "" if one can."""
    if not sys.executable or not os.access(sys.executable, os.X_OK):
        return "the Python of the server is gone"
    # Debian keeps these in packages of their own.
    for module in ["venv", "ensurepip"] if pip else ["venv"]:
        if find_spec(module) is None:
            return f"the Python of the server has no module {module}"
    return ""


def _venv_command(folder: str, pip: bool) -> list[str]:
    without = [] if pip else ["--without-pip"]
    return [sys.executable, "-I", "-m", "venv", *without, folder]


def _package(workspace: str) -> str:
    # A name of any id is a valid one for npm: its own letters, none of its reserved names.
    name = f"waggle-{os.path.basename(workspace).lstrip('~')}"
    return json.dumps({"name": name, "private": True}, indent=2) + "\n"


def _marker(environment: Environment) -> str:
    """What stands in a whole workspace, to the byte: the start of it is a half made one."""
    return json.dumps({"id": environment.id, "runtime": environment.runtime}) + "\n"
