# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: T201 - it prints, as a command does.
"""The command ``python -m tests.conformance``: runs the conformance tool of MCP."""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.conformance.expectations import read_checks, summary, unused
from tests.npm import UnavailableError, install, node_version

_HERE: Final = Path(__file__).parent
_EXPECTED: Final = _HERE / "expected-failures.yaml"

#: Where the tool is installed: ``make clean`` removes it.
_TOOL: Final = _HERE.parents[1] / ".venv" / "conformance"

#: The revisions of the protocol that clients speak: with a handshake, and without.
_REVISIONS: Final = ("2025-11-25", "2026-07-28")

#: The Node that the tool needs, which is installed with it, on Linux.
_TOOL_NODE_VERSION: Final = 22

_START_TIMEOUT_S: Final = 60
_RUN_TIMEOUT_S: Final = 300
_STOP_TIMEOUT_S: Final = 15


def main() -> int:
    """Install the tool, run it for each revision, and return the exit code."""
    try:
        environment = _install()
    except UnavailableError as reason:
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
    install(_HERE, _TOOL)
    programs = _TOOL / "node_modules" / ".bin"
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    if node_version(environment) < _TOOL_NODE_VERSION:
        raise UnavailableError(f"the tool needs Node {_TOOL_NODE_VERSION} or newer")
    return environment


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
