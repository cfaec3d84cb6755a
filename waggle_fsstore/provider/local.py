# SPDX-License-Identifier: Apache-2.0
"""The local provider: each environment is a private directory on this machine."""

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
from waggle_fsstore.domain.errors import ProviderError, RuntimeUnavailableError, WorkspaceGoneError
from waggle_fsstore.provider.host_tools import HostTools, find_host_tools, search_path
from waggle_fsstore.provider.process_groups import ProcessGroups
from waggle_fsstore.provider.workspace_dirs import (
    ROOT_MARKER,
    dir_name,
    make_dir,
    make_root,
    original_name,
    read_start,
    removal_name,
    remove_entry,
    why_no_root,
    why_unusable,
    write_new,
)
from waggle_fsstore.service.provider import WITH_PIP

_log: Final = logging.getLogger(__name__)

_MARKER: Final = ".waggle-workspace"
_VENV: Final = ".venv"

# The program that a runtime needs on the search path. Python is that of the server.
_PROGRAM_OF: Final = {Runtime.NODE: "node", Runtime.SHELL: "sh"}

_VENV_TIMEOUT_S: Final = 300.0
# The pauses after which a removal is retried.
_REMOVE_PAUSES_S: Final = (0.01, 0.03, 0.1, 0.3, 1.0)


class LocalProvider:
    """Keeps each environment in a directory below ``root``, with its runtime in it.

    There is no isolation: the programs of an environment run as the user who runs the
    server, and can do all that this user can. The directory is private to this user.

    A python environment has a venv in ``.venv``, with pip if its label ``pip`` is ``yes``;
    a node environment is a package; a shell environment is an empty directory. The root
    directory is made by the first :meth:`create`. Once there are workspaces, which
    ``has_workspaces`` says of earlier ones, a missing root directory may be an unmounted
    disk: until it is back, nothing is made, given up or removed. Nothing is synced, so a
    power cut may cost new workspaces. Needs POSIX process groups, so not for Windows.
    """

    name: Final = "local"

    def __init__(self, root: str | os.PathLike[str], *, has_workspaces: bool = False) -> None:
        self._root = os.path.abspath(root)
        self._has_workspaces = has_workspaces
        self._groups = ProcessGroups()
        self._cached_tools: HostTools | None = None

    @property
    def root(self) -> Path:
        """The absolute path of the directory that holds all workspaces; it may not exist yet."""
        return Path(self._root)

    def create(self, environment: Environment) -> Capabilities:
        """Make the directory and its runtime. Raises if anything exists under its name."""
        self._check_open()
        self._check_root()
        self._check_runtime(environment)
        workspace = self.locate(environment)
        with self._translating_os_errors("make its workspace"):
            make_root(self._root)
            self._has_workspaces = True
            try:
                make_dir(workspace)
            except FileExistsError as error:
                raise ProviderError(self.name, "its workspace exists already") from error
            if environment.runtime is Runtime.PYTHON:
                self._make_venv(environment, workspace)
            elif environment.runtime is Runtime.NODE:
                write_new(os.path.join(workspace, "package.json"), _package(workspace))
            self._check_open()
            write_new(os.path.join(workspace, _MARKER), _marker(environment))
        return self.probe(environment)

    def probe(self, environment: Environment) -> Capabilities:
        """Return what the directory and the machine offer; starts no program.

        The programs of the machine may have been looked up a minute ago.
        """
        with self._translating_os_errors("read its workspace"):
            workspace = self.locate(environment)
            self._check_workspace(environment, workspace)
            tools = self._host_tools()
            if environment.runtime is Runtime.PYTHON:
                return self._probe_venv(os.path.join(workspace, _VENV, "bin"), tools)
            program = _PROGRAM_OF[environment.runtime]
            if program not in tools.programs:
                reason = f"the program {program} is no longer on the search path"
                raise ProviderError(self.name, reason)
            return tools.capabilities()

    def locate(self, environment: Environment) -> str:
        """Return the absolute path of its directory."""
        return os.path.join(self._root, dir_name(environment.id))

    def remove(self, environment: Environment) -> None:
        """Remove its directory with all contents, and what earlier removals left of it.

        A creation by this provider object is interrupted, and raises. A creation by a killed
        process may continue for a while: :meth:`find_orphans` finds what it makes later.
        """
        self._check_root()
        name = dir_name(environment.id)
        for pause in _REMOVE_PAUSES_S:
            failure: Exception | None = None
            try:
                self._clear(name)
                if not self._entries_of(name):
                    return
            except (OSError, RecursionError) as error:  # The latter: nested too deeply.
                failure = error
            time.sleep(pause)
        reason = _reason(failure) if failure else "a program keeps writing to it"
        raise ProviderError(self.name, f"cannot remove its workspace: {reason}") from failure

    def find_orphans(self, known: Iterable[str]) -> list[str]:
        """Return the entries of the root directory that belong to no ``known`` id, sorted."""
        names = {dir_name(environment_id) for environment_id in known}
        with self._translating_os_errors("list the workspaces"):
            return sorted(entry for entry in self._entries() if original_name(entry) not in names)

    def check(self) -> None:
        """Raise if the root directory is missing, unusable, or cannot be made."""
        self._check_open()
        if reason := why_unusable(self._root):
            raise ProviderError(self.name, reason)
        self._check_root()

    def close(self) -> None:
        """Interrupt creations and refuse new ones; all other methods still work."""
        self._groups.close()

    def _check_open(self) -> None:
        if self._groups.is_closed:
            raise ProviderError(self.name, "the provider was closed")

    def _check_root(self) -> None:
        if self._has_workspaces and (reason := why_no_root(self._root)):
            raise ProviderError(self.name, reason)

    def _check_runtime(self, environment: Environment) -> None:
        if environment.runtime is Runtime.PYTHON:
            reason = _why_no_venv(_wants_pip(environment))
        else:
            program = _PROGRAM_OF[environment.runtime]
            is_found = program in self._host_tools(refresh=True).programs
            reason = "" if is_found else f"the program {program} is not on the search path"
        if reason:
            raise RuntimeUnavailableError(self.name, reason, environment.runtime)

    def _check_workspace(self, environment: Environment, workspace: str) -> None:
        """Raise unless this is the complete workspace of this environment."""
        try:
            mode = os.lstat(workspace).st_mode
        except FileNotFoundError as error:
            if reason := why_no_root(self._root):
                raise ProviderError(self.name, reason) from error
            raise WorkspaceGoneError(self.name, "its workspace is gone") from error
        if not stat.S_ISDIR(mode):
            raise WorkspaceGoneError(self.name, "its workspace is not a directory")
        expected = _marker(environment).encode()
        try:
            marker = read_start(os.path.join(workspace, _MARKER), len(expected) + 1)
        except FileNotFoundError:
            marker = b""
        if marker == expected:
            return
        is_partial = expected.startswith(marker)
        reason = "is incomplete" if is_partial else "was made for another environment"
        raise WorkspaceGoneError(self.name, f"its workspace {reason}")

    def _probe_venv(self, bin_dir: str, tools: HostTools) -> Capabilities:
        python = os.path.join(bin_dir, "python")
        try:
            mode = os.stat(python).st_mode
        except (FileNotFoundError, NotADirectoryError) as error:
            raise WorkspaceGoneError(self.name, "its python is gone") from error
        if not stat.S_ISREG(mode) or not os.access(python, os.X_OK):
            raise ProviderError(self.name, "its python is not executable")
        own = {"python"}
        if os.access(os.path.join(bin_dir, "pip"), os.X_OK):
            own.add("pip")
        # Without the pip of the machine, which would install outside of the venv.
        programs = tools.programs - {"python3", "pip", "pip3"} | own
        path = f"{bin_dir}{os.pathsep}{tools.path}"
        return HostTools(path, programs).capabilities(has_venv=True)

    def _make_venv(self, environment: Environment, workspace: str) -> None:
        import subprocess  # Deferred: takes 5 ms, and only this method needs it.

        command = _venv_command(os.path.join(workspace, _VENV), _wants_pip(environment))
        try:
            # In the workspace, so that it cannot start once a removal has renamed that.
            self._groups.run(
                command, directory=workspace, path=search_path(), timeout=_VENV_TIMEOUT_S
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

    def _clear(self, name: str) -> None:
        """Remove what exists of a workspace now, and stop the program that makes it."""
        workspace = os.path.join(self._root, name)
        with suppress(FileNotFoundError):
            os.rename(workspace, os.path.join(self._root, removal_name(name)))
        self._groups.stop(workspace)
        for entry in self._entries_of(name):
            remove_entry(os.path.join(self._root, entry))

    def _entries(self) -> list[str]:
        try:
            return [entry for entry in os.listdir(self._root) if entry != ROOT_MARKER]
        except FileNotFoundError:
            return []

    def _entries_of(self, name: str) -> list[str]:
        return [entry for entry in self._entries() if original_name(entry) == name]

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


def _venv_command(directory: str, pip: bool) -> list[str]:
    without = [] if pip else ["--without-pip"]
    return [sys.executable, "-I", "-m", "venv", *without, directory]


def _package(workspace: str) -> str:
    # The name is valid for npm with any id: lower case, and none of its reserved names.
    name = f"waggle-{os.path.basename(workspace).lstrip('~')}"
    return json.dumps({"name": name, "private": True}, indent=2) + "\n"


def _marker(environment: Environment) -> str:
    """Return the exact content of the marker: a prefix of it means an incomplete workspace."""
    return json.dumps({"id": environment.id, "runtime": environment.runtime}) + "\n"
