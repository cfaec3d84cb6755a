# SPDX-License-Identifier: Apache-2.0
"""The program that makes a venv, and how it is stopped."""

import logging
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.provider.conftest import (
    PYTHON,
    SHELL,
    Waiting,
    entries_of,
    environment,
    failure_of,
    is_running,
)
from waggle_fsstore import Runtime
from waggle_fsstore.provider import layout, local, process_groups
from waggle_fsstore.provider.local import LocalProvider

CREATE = """
import sys
from waggle_fsstore import Environment
from waggle_fsstore.provider import local
local._venv_command = lambda *_: sys.argv[2:]
environment = Environment(id="a", name="n", runtime="python")
local.LocalProvider(sys.argv[1]).create(environment)
"""


def test_program_inherits_no_variables(
    provider: LocalProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program that makes a venv sees no variable of the server, and reads no input."""
    # Except for those that Python (without a locale) and shells set by themselves.
    own = {"LC_CTYPE", "PWD", "OLDPWD", "SHLVL", "_"}
    code = f"import os, sys; print(sorted({{*os.environ}} - {own}), sys.stdin.read())"
    seen = tmp_path / "seen"
    command = ["/bin/sh", "-c", 'exec "$0" -I -c "$1" >"$2"', sys.executable, code, str(seen)]
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    monkeypatch.setattr(local, "_venv_command", lambda *_: command)
    failure_of(provider.create, PYTHON)
    assert seen.read_text() == "['PATH', 'TMPDIR'] \n"


def test_program_output_is_logged(
    provider: LocalProvider, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The output of a failed program goes to the log, and not to the client."""
    command = ["/bin/sh", "-c", "echo no /secret >&2; exit 3"]
    monkeypatch.setattr(local, "_venv_command", lambda *_: command)
    with caplog.at_level(logging.WARNING, "waggle_fsstore.provider.local"):
        error = failure_of(provider.create, PYTHON)
    assert error.reason == "its venv could not be created"
    assert isinstance(error.__cause__, subprocess.CalledProcessError)
    assert "no /secret" in caplog.text
    assert "exit status 3" in caplog.text


def test_program_that_cannot_start_is_os_error(
    provider: LocalProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that the system cannot start is an error of the system."""
    monkeypatch.setattr(local, "_venv_command", lambda *_: ["/nowhere/python"])
    error = failure_of(provider.create, PYTHON)
    assert isinstance(error.__cause__, FileNotFoundError)


def test_slow_program_is_stopped(
    provider: LocalProvider, waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that takes too long is stopped."""
    groups = []
    real = process_groups._output_of

    def impatient(process: subprocess.Popen[bytes], timeout: float) -> bytes:
        groups.append(waiting.wait_for_start())
        return real(process, timeout / 1e6)

    monkeypatch.setattr(process_groups, "_output_of", impatient)
    error = failure_of(provider.create, PYTHON)
    assert not is_running(groups[0])
    assert error.reason == "its venv was not created within 300 s"
    assert isinstance(error.__cause__, subprocess.TimeoutExpired)


def test_interrupt_stops_program(
    provider: LocalProvider, waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt leaves neither a program nor a zombie, and is raised unchanged."""
    groups = []

    def interrupted(*_: object, **__: object) -> None:
        groups.append(waiting.wait_for_start())
        raise KeyboardInterrupt

    monkeypatch.setattr(process_groups, "_output_of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        provider.create(PYTHON)
    assert not is_running(groups[0])


@pytest.mark.parametrize("kind", ["waiting", "stubborn"])
def test_close_interrupts_creation(
    provider: LocalProvider, kind: str, request: pytest.FixtureRequest
) -> None:
    """A creation in progress raises when the provider is closed, and leaves no program."""
    program: Waiting = request.getfixturevalue(kind)
    with ThreadPoolExecutor(1) as pool:
        creation = pool.submit(failure_of, provider.create, PYTHON)
        group = program.wait_for_start()
        provider.close()
        assert not is_running(group)
        assert creation.result().reason == "the provider was closed"
    assert failure_of(provider.probe, PYTHON).reason == "its workspace is incomplete"
    provider.remove(PYTHON)


def test_forked_child_stops_no_program(provider: LocalProvider, waiting: Waiting) -> None:
    """A child that closes the provider leaves the programs of its parent alone."""
    with ThreadPoolExecutor(1) as pool:
        creation = pool.submit(failure_of, provider.create, PYTHON)
        group = waiting.wait_for_start()
        child = os.fork()
        if child == 0:
            try:
                signal.alarm(10)  # A child that hangs fails the test.
                process_groups._stop = lambda leaders: os._exit(len(list(leaders)))
                provider.close()
            finally:
                os._exit(100)
        status, is_alive = os.waitpid(child, 0)[1], is_running(group)
        provider.close()
        assert (status, is_alive) == (0, True)
        assert creation.result().reason == "the provider was closed"


def test_closed_provider_only_probes_and_removes(provider: LocalProvider, root: Path) -> None:
    """A closed provider creates nothing, and still probes and removes."""
    provider.create(SHELL)
    provider.close()
    provider.close()
    for runtime in Runtime:
        error = failure_of(provider.create, environment("b", runtime))
        assert error.reason == "the provider was closed"
    assert failure_of(provider.check).reason == "the provider was closed"
    provider.probe(SHELL)
    assert provider.find_orphans([]) == ["a"]
    provider.remove(SHELL)
    assert entries_of(root) == []


@pytest.mark.parametrize("runtime", [Runtime.SHELL, Runtime.PYTHON])
def test_close_before_program_starts_interrupts_creation(
    provider: LocalProvider, monkeypatch: pytest.MonkeyPatch, runtime: Runtime
) -> None:
    """A close before the program starts, or without any program, interrupts the creation."""
    make = layout.make

    def make_and_close(path: str) -> None:
        make(path)
        provider.close()

    monkeypatch.setattr(layout, "make", make_and_close)
    error = failure_of(provider.create, environment(runtime=runtime))
    assert error.reason == "the provider was closed"


def test_killed_server_leaves_removable_workspace(
    provider: LocalProvider, root: Path, waiting: Waiting
) -> None:
    """The workspace that a killed server was making is incomplete, and can be removed."""
    command = [sys.executable, "-c", CREATE, str(root), *waiting.command]
    with subprocess.Popen(command) as server:
        waiting.wait_for_start()
        server.kill()
    error = failure_of(provider.probe, PYTHON)
    assert error.reason == "its workspace is incomplete"
    provider.remove(PYTHON)
    assert entries_of(root) == []
    waiting.release()
