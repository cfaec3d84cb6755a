# SPDX-License-Identifier: Apache-2.0
"""What this machine offers to every environment: a search path, and the programs on it."""

import os
import shutil
import time
from datetime import UTC, datetime
from typing import Final, NamedTuple

from waggle_fsstore.domain.environment import Capabilities

#: For how many seconds a search counts.
_LIFETIME: Final = 60.0

_PROGRAMS: Final = (
    *("sh", "python3", "python", "pip3", "pip", "node", "npm"),
    *("apk", "apt-get", "dnf", "yum", "zypper"),
)

# Hosts start servers with nearly empty environments.
_USUAL_PATH: Final = (*os.defpath.split(os.pathsep), "/usr/local/bin", "/opt/homebrew/bin")


class Machine(NamedTuple):
    """What was found on it, and until when (in monotonic time) that counts."""

    path: str
    programs: frozenset[str]
    expires: float = 0.0

    @property
    def is_outdated(self) -> bool:
        """Whether it is time to search again."""
        return time.monotonic() > self.expires

    def capabilities(self, *, has_venv: bool = False) -> Capabilities:
        """What an environment can use here; commands are names to be found on the path."""
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


def search() -> Machine:
    """Look for the programs of this machine."""
    path = search_path()
    programs = frozenset(name for name in _PROGRAMS if shutil.which(name, path=path))
    return Machine(path, programs, time.monotonic() + _LIFETIME)


def search_path() -> str:
    """The search path of this process, or the usual one if it has none.

    Without what would mean another folder in an environment, and what no text can hold.
    """
    folders = os.environ.get("PATH", "").split(os.pathsep)
    return os.pathsep.join(filter(_is_usable, folders)) or os.pathsep.join(_USUAL_PATH)


def _is_usable(folder: str) -> bool:
    try:
        folder.encode()
    except UnicodeEncodeError:
        return False
    return os.path.isabs(folder)
