# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: T201 - it prints, as a command does.
"""The command ``python -m tests.conformance``: runs the conformance tool of MCP."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.conformance.expectations import read_checks, summary, unused

_HERE: Final = Path(__file__).parent
_EXPECTED: Final = _HERE / "expected-failures.yaml"

#: Where the tool is installed: ``make clean`` removes it.
_TOOL: Final = _HERE.parents[1] / ".venv" / "conformance"

#: The revisions of the protocol that clients speak: with a handshake, and without.
_REVISIONS: Final = ("2025-11-25", "2026-07-28")

#: The Node versions that npm and the tool need. The tool's is installed with it, on Linux.
_NPM_NODE_VERSION: Final = 18
_TOOL_NODE_VERSION: Final = 22

#: npm's errors if a registry cannot be reached, or refuses the download.
_UNREACHABLE: Final = re.compile(
    r"npm (?:error|ERR!) code "
    r"(EAI_AGAIN|ECONN\w+|EHOSTUNREACH|ENETUNREACH|ENOTFOUND|EPIPE|EPROTO|ETIMEDOUT|E\d{3}"
    r"|ERR_SOCKET_TIMEOUT|ERR_SSL\w*|\w*CERT\w*|UNABLE_TO_\w+)\b"
)

_INSTALL_TIMEOUT_S: Final = 600
_START_TIMEOUT_S: Final = 60
_RUN_TIMEOUT_S: Final = 300
_STOP_TIMEOUT_S: Final = 15


class ToolUnavailableError(Exception):
    """The tool cannot be installed or run here."""


def main() -> int:
    """Install the tool, run it for each revision, and return the exit code."""
    try:
        environment = _install()
    except ToolUnavailableError as reason:
        print(f"skipped: {reason}")
        return 0
    with tempfile.TemporaryDirectory() as directory, _server(Path(directory)) as url:
        results = {revision: Path(directory, revision) for revision in _REVISIONS}
        as_expected = [_run(revision, url, results[revision], environment) for revision in results]
        checks = [check for path in results.values() for check in read_checks(path)]
    if not all(as_expected):
        return 1
    if rotten := unused(_EXPECTED.read_text(encoding="utf-8"), checks):
        print(f"{_EXPECTED.name} lists checks that did not fail:", *rotten, sep="\n  ")
        return 1
    return 0


def _install() -> dict[str, str]:
    """Install the locked tool if necessary, and return the variables to run it with."""
    if not shutil.which("npm") or _node_version(os.environ) < _NPM_NODE_VERSION:
        raise ToolUnavailableError(f"npm and Node {_NPM_NODE_VERSION} or newer are needed")
    # Written last: the lock file of the complete installation.
    installed, lock = _TOOL / "installed.json", _HERE / "package-lock.json"
    is_new = not installed.exists() or installed.read_bytes() != lock.read_bytes()
    if is_new:
        _TOOL.mkdir(parents=True, exist_ok=True)
        for source in (lock, _HERE / "package.json"):
            shutil.copy(source, _TOOL)
        _npm_ci()
    programs = _TOOL / "node_modules" / ".bin"
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    if _node_version(environment) < _TOOL_NODE_VERSION:
        raise ToolUnavailableError(f"the tool needs Node {_TOOL_NODE_VERSION} or newer")
    if is_new:
        shutil.copy(lock, installed)
    return environment


def _npm_ci() -> None:
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1"]
    try:
        done = subprocess.run(
            command,
            cwd=_TOOL,
            capture_output=True,
            text=True,
            timeout=_INSTALL_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ToolUnavailableError(
            f"the npm registry did not answer within {_INSTALL_TIMEOUT_S} s"
        ) from None
    if done.returncode == 0:
        return
    if problem := _UNREACHABLE.search(done.stderr):
        raise ToolUnavailableError(f"the npm registry cannot be reached ({problem[1]})")
    sys.exit(f"npm ci failed:\n{done.stderr}")


def _node_version(environment: Mapping[str, str]) -> int:
    """Return the major version of the Node on the search path of these variables; 0 for none."""
    node = shutil.which("node", path=environment.get("PATH"))
    if node is None:
        return 0
    done = subprocess.run([node, "--version"], capture_output=True, text=True, check=False)
    version = re.match(r"v(\d+)\.", done.stdout)
    return int(version[1]) if version else 0


@contextmanager
def _server(directory: Path) -> Iterator[str]:
    """Run a server on a new store and a free port during the block, and yield its address."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WAGGLE_")}
    environment |= {
        "WAGGLE_LISTEN_ADDR": "127.0.0.1:0",
        "WAGGLE_DATA_DIR": str(directory / "data"),
        "WAGGLE_STORE_PATH": str(directory / "store"),
    }
    # A file, because a pipe would have to be read while the tool runs.
    log = directory / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "waggle_fsstore", "serve"], env=environment, stderr=output
        )
    try:
        yield _address(server, log)
    finally:
        server.terminate()
        try:
            server.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _address(server: subprocess.Popen[bytes], log: Path) -> str:
    """Return the address of a server, as soon as its log has it."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and server.poll() is None:
        text = log.read_text(encoding="utf-8")
        if found := re.search(r"serving on (http://[^\s\"]+)", text):
            return found[1]
        time.sleep(0.05)
    sys.exit(f"the server did not start:\n{log.read_text(encoding='utf-8')}")


def _run(revision: str, url: str, results: Path, environment: dict[str, str]) -> bool:
    """Run all scenarios of a revision, print a summary, and return whether all is as expected."""
    options = ["--url", url, "--suite", "all", "--spec-version", revision]
    options += ["--expected-failures", str(_EXPECTED), "--output-dir", str(results)]
    done = subprocess.run(
        ["conformance", "server", *options],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_RUN_TIMEOUT_S,
        check=False,
    )
    checks = read_checks(results)
    if done.returncode or not checks:
        print(f"{done.stdout}\nMCP {revision}: not as expected, see above")
        return False
    print(f"MCP {revision}: {summary(checks)}")
    return True


if __name__ == "__main__":
    sys.exit(main())
