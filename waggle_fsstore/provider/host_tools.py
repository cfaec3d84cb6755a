# SPDX-License-Identifier: Apache-2.0
"""The search path of this machine, and the programs on it that environments can use."""

import os
import shutil
from datetime import UTC, datetime
from typing import Final, NamedTuple

from waggle_fsstore.domain.clock import monotonic
from waggle_fsstore.domain.environment import Capabilities

# How long the result of a search is valid.
_MAX_AGE_S: Final = 60.0

_PROGRAMS: Final = (
    *("sh", "python3", "python", "pip3", "pip", "node", "npm"),
    *("apk", "apt-get", "dnf", "yum", "zypper"),
)

# MCP hosts start servers with few environment variables.
_DEFAULT_PATH: Final = (*os.defpath.split(os.pathsep), "/usr/local/bin", "/opt/homebrew/bin")


class HostTools(NamedTuple):
    """A search path, the programs on it, and until when (monotonic seconds) this is valid."""

    path: str
    programs: frozenset[str]
    expires: float = 0.0

    @property
    def is_expired(self) -> bool:
        """Whether a new search is due."""
        return monotonic() > self.expires

    def capabilities(self, *, has_venv: bool = False) -> Capabilities:
        """Return what an environment can use; commands are names to look up on the path."""
        return Capabilities(
            detected_at=datetime.now(UTC),
            path=self.path,
            python_command=self._first_of("python3", "python"),
            pip_command=self._first_of("pip3", "pip"),
            node_command=self._first_of("node"),
            npm_command=self._first_of("npm"),
            has_venv=has_venv,
            has_apk="apk" in self.programs,
            has_apt_get="apt-get" in self.programs,
            has_dnf="dnf" in self.programs,
            has_yum="yum" in self.programs,
            has_zypper="zypper" in self.programs,
            is_root=os.geteuid() == 0,
        )

    def _first_of(self, *names: str) -> str:
        return next((name for name in names if name in self.programs), "")


def find_host_tools() -> HostTools:
    """Search this machine for programs."""
    path = search_path()
    programs = frozenset(name for name in _PROGRAMS if shutil.which(name, path=path))
    return HostTools(path, programs, monotonic() + _MAX_AGE_S)


def search_path() -> str:
    """Return the search path of this process, or a default one if it has none.

    Relative directories, which would differ in an environment, and names that are not valid
    text are left out.
    """
    directories = os.environ.get("PATH", "").split(os.pathsep)
    return os.pathsep.join(filter(_is_usable, directories)) or os.pathsep.join(_DEFAULT_PATH)


def _is_usable(directory: str) -> bool:
    try:
        directory.encode()
    except UnicodeEncodeError:
        return False
    return os.path.isabs(directory)
