# SPDX-License-Identifier: Apache-2.0
"""Installs locked packages of npm for the tests that need them."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

#: The oldest Node whose npm reads the lock files.
_MIN_NODE_VERSION: Final = 18

#: npm's errors if a registry cannot be reached, or refuses the download.
_UNREACHABLE: Final = re.compile(
    r"npm (?:error|ERR!) code "
    r"(EAI_AGAIN|ECONN\w+|EHOSTUNREACH|ENETUNREACH|ENOTFOUND|EPIPE|EPROTO|ETIMEDOUT|E\d{3}"
    r"|ERR_SOCKET_TIMEOUT|ERR_SSL\w*|\w*CERT\w*|UNABLE_TO_\w+)\b"
)

_INSTALL_TIMEOUT_S: Final = 600


class UnavailableError(Exception):
    """Something that a test needs cannot be installed or run here."""


def install(source: Path, target: Path, others: Iterable[Path] = ()) -> None:
    """Install the packages that ``source`` locks into ``target``, unless they are there.

    ``others`` are further files that ``target`` gets. Raises :class:`UnavailableError` without
    npm or a registry.
    """
    if not shutil.which("npm") or node_version(os.environ) < _MIN_NODE_VERSION:
        raise UnavailableError(f"npm and Node {_MIN_NODE_VERSION} or newer are needed")
    # Written last: the lock file of the complete installation.
    installed, lock = target / "installed.json", source / "package-lock.json"
    target.mkdir(parents=True, exist_ok=True)
    for file in (lock, source / "package.json", *others):
        shutil.copy(file, target)
    if not installed.exists() or installed.read_bytes() != lock.read_bytes():
        _npm_ci(target)
        shutil.copy(lock, installed)


def _npm_ci(directory: Path) -> None:
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1"]
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=_INSTALL_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError(
            f"the npm registry did not answer within {_INSTALL_TIMEOUT_S} s"
        ) from None
    if done.returncode == 0:
        return
    if problem := _UNREACHABLE.search(done.stderr):
        raise UnavailableError(f"the npm registry cannot be reached ({problem[1]})")
    sys.exit(f"npm ci failed:\n{done.stderr}")


def node_version(environment: Mapping[str, str]) -> int:
    """Return the major version of the Node on the search path of these variables; 0 for none."""
    node = shutil.which("node", path=environment.get("PATH"))
    if node is None:
        return 0
    done = subprocess.run([node, "--version"], capture_output=True, text=True, check=False)
    version = re.match(r"v(\d+)\.", done.stdout)
    return int(version[1]) if version else 0
