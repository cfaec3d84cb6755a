# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: T201 - it prints, as a command does.
"""The command ``python -m tests.clients``: other projects' clients talk to a real server."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final
from zipfile import ZipFile

from tests.npm import UnavailableError, install
from tests.server.processes import HttpServer

_HERE: Final = Path(__file__).parent

#: Where the clients are installed: ``make clean`` removes it.
_INSTALLED: Final = _HERE.parents[1] / ".venv" / "clients"

_TYPESCRIPT: Final = ("typescript-1", "typescript-2")
_PYTHON: Final = ("fastmcp", "mcp-proxy", "langchain-mcp-adapters", "openai-agents")

_INSTALL_TIMEOUT_S: Final = 600
_CLIENT_TIMEOUT_S: Final = 120

#: How pip reports an index that it cannot reach.
_UNREACHABLE: Final = ("No matching distribution", "connection", "Could not fetch URL")


def main() -> int:
    """Run each client over both transports, and return the exit code."""
    failures = 0
    for name in (*_TYPESCRIPT, *_PYTHON):
        try:
            command = _install(name)
        except UnavailableError as reason:
            print(f"{name}: skipped: {reason}")
            continue
        for transport, talk in (("HTTP", _talk_http), ("stdio", _talk_stdio)):
            problem = talk(command)
            print(f"{name} over {transport}: {problem or 'passed'}", flush=True)
            failures += bool(problem)
    return 1 if failures else 0


def _install(name: str) -> list[str]:
    """Install a client if necessary, and return the command that runs it."""
    source, target = _HERE / name, _INSTALLED / name
    if name in _TYPESCRIPT:
        install(source, target, [source / "client.mjs", _HERE / "conversation.mjs"])
        return ["node", str(target / "client.mjs")]
    python, installed = target / "bin" / "python", target / "installed.txt"
    pinned = source / "requirements.txt"
    if not installed.exists() or installed.read_bytes() != pinned.read_bytes():
        subprocess.run([sys.executable, "-m", "venv", "--clear", target], check=True)
        _pip_install(python, pinned)
        installed.write_bytes(pinned.read_bytes())
    return [str(python), str(source / "client.py")]


def _pip_install(python: Path, requirements: Path) -> None:
    command = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "-r"]
    try:
        done = subprocess.run(
            [*command, str(requirements)],
            capture_output=True,
            text=True,
            timeout=_INSTALL_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"no index answered within {_INSTALL_TIMEOUT_S} s") from None
    if done.returncode and any(text in done.stderr for text in _UNREACHABLE):
        raise UnavailableError("no index has these packages, or it cannot be reached")
    if done.returncode:
        sys.exit(f"pip failed:\n{done.stderr}")


def _talk_http(command: list[str]) -> str:
    """Have a client talk to a server that is killed on the way; return the problem, or ""."""
    with tempfile.TemporaryDirectory() as directory, ExitStack() as servers:
        store = Path(directory, "store")
        index = make_index(Path(directory))
        server = servers.enter_context(HttpServer(store, **index))
        url = server.url
        with _client([*command, url]) as client:
            if client.readline().strip() == "restart the server":
                address = server.address
                server.kill()
                server = servers.enter_context(
                    HttpServer(store, WAGGLE_LISTEN_ADDR=address, **index)
                )
                assert server.url == url
                client.write("continue\n")
            return client.problem()


def _talk_stdio(command: list[str]) -> str:
    """Have a client talk to a server that it starts; return the problem, or ""."""
    with tempfile.TemporaryDirectory() as directory:
        store = str(Path(directory, "store"))
        server = [sys.executable, "-m", "waggle_fsstore", "--store", store, "serve", "--stdio"]
        with _client([*command, *server], **make_index(Path(directory))) as client:
            return client.problem()


class _Client:
    """A running client."""

    def __init__(self, process: "subprocess.Popen[str]", log: Path) -> None:
        self._process = process
        self._log = log

    def readline(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def write(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text)
        self._process.stdin.flush()

    def problem(self) -> str:
        """Wait for the end, and return what is wrong with its answers, "" if nothing is."""
        output, _ = self._process.communicate()
        if self._process.returncode:
            return f"exit code {self._process.returncode}\n{output}{self._log.read_text()}"
        try:
            _check(json.loads(output.splitlines()[-1]))
        except (AssertionError, LookupError, ValueError) as error:
            return f"{error!r}\n{output}"
        return ""


@contextmanager
def _client(command: list[str], **variables: str) -> Iterator[_Client]:
    """Start a client; it is killed at the end of the block, or if it takes too long."""
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory, "log")
        with log.open("w") as errors:
            process = subprocess.Popen(
                command,
                env={**os.environ, "PYTHONPATH": str(_HERE), **variables},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        timer = threading.Timer(_CLIENT_TIMEOUT_S, process.kill)
        timer.start()
        try:
            with process:
                yield _Client(process, log)
                process.kill()
        finally:
            timer.cancel()


def make_index(directory: Path) -> dict[str, str]:
    """Make an index with one package, and return the variables by which pip finds only that."""
    name = "primes31-1.0-py3-none-any.whl"
    info = "primes31-1.0.dist-info"
    files = {
        "primes31.py": "def is_prime(n):\n    return n > 1 and all(n % d for d in range(2, n))\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: primes31\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    # Another user may have to read it: the one that programs run as.
    directory = directory / "index"
    directory.mkdir(mode=0o755)
    record = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    with ZipFile(directory / name, "w") as wheel:
        for path, text in {**files, f"{info}/RECORD": record}.items():
            wheel.writestr(path, text)
    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(directory), "PIP_CONFIG_FILE": os.devnull}


def _check(answers: dict[str, Any]) -> None:
    """Check what the client was answered."""
    made, events = answers["made"], answers["ended"]["events"]
    assert made["status"] == answers["got"]["status"] == "running"
    assert answers["got"]["environment_id"] == made["environment_id"]
    assert [one["name"] for one in answers["listed"]["environments"]] == ["from a client"]
    assert answers["destroyed"]["status"] == "destroyed"
    assert answers["installed"]["exit_code"] == 0, answers["installed"]
    assert answers["written"] == {"status": "written", "path": "in/a.csv", "bytes_written": 6}
    assert answers["executed"]["stdout"] == "2\n", answers["executed"]
    assert answers["read"]["content"] == "[7]"
    assert {one["name"] for one in answers["files"]["files"]} >= {"in", "out.txt"}
    statuses = ["creating", "running", "running", "running", "destroying", None]
    assert [one["status"] for one in events] == statuses
    reasons = [one["reason"] for one in events]
    assert reasons[2] == "installed primes31: exit code 0"
    assert "ran 1 program" in reasons[3]
    assert [one["kind"] for one in answers["lived"]["events"]] == ["created", "updated", "updated"]
    actors = {one["actor"] for one in events if one["actor"] != "touch"}
    assert len(actors) == 1, actors
    assert actors.pop().startswith("mcp:")


if __name__ == "__main__":
    sys.exit(main())
