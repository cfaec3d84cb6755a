# SPDX-License-Identifier: Apache-2.0
"""The programs and the search path of the machine that the local provider offers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.provider.conftest import PYTHON, SHELL, environment, failure_of
from waggle_fsstore import ProviderError, Runtime, RuntimeUnavailableError
from waggle_fsstore.domain.clock import monotonic
from waggle_fsstore.provider import host_tools, local
from waggle_fsstore.provider.local import LocalProvider


def test_server_without_variables_creates_environments(
    provider: LocalProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server without environment variables creates and probes environments."""
    for variable in list(os.environ):
        monkeypatch.delenv(variable)
    found = provider.create(PYTHON)
    path = f"{provider.locate(SHELL)}/.venv/bin:{os.defpath}:/usr/local/bin:/opt/homebrew/bin"
    assert found.path == path


def test_search_path_has_absolute_directories_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the search path of the server, absolute directories with valid names are used."""
    monkeypatch.setenv("PATH", ":.:bin:/usr/bin:/\udcff:/bin")
    assert host_tools.search_path() == "/usr/bin:/bin"
    monkeypatch.setenv("PATH", "")
    assert host_tools.search_path().split(":")[-1] == "/opt/homebrew/bin"


@pytest.mark.parametrize(("runtime", "program"), [(Runtime.NODE, "node"), (Runtime.SHELL, "sh")])
def test_missing_program_makes_runtime_unavailable(
    provider: LocalProvider,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    runtime: Runtime,
    program: str,
) -> None:
    """Without its program a runtime is unavailable, and nothing is made."""
    monkeypatch.setenv("PATH", "/nowhere")
    error = failure_of(provider.create, environment(runtime=runtime))
    assert isinstance(error, RuntimeUnavailableError)
    assert error.runtime == runtime
    assert error.reason == f"the program {program} is not on the search path"
    assert not root.exists()


def test_create_finds_newly_installed_program(
    provider: LocalProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each creation searches again, so that no restart is needed after an installation."""
    monkeypatch.setenv("PATH", str(tmp_path))
    failure_of(provider.create, SHELL)
    (tmp_path / "sh").symlink_to("/bin/sh")
    provider.create(SHELL)


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_missing_module_makes_python_unavailable(
    provider: LocalProvider, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    """Without the module that makes venvs, as on Debian, python is unavailable."""
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(local, "find_spec", lambda name: None if name == module else object())
    asked = environment(runtime=Runtime.PYTHON, pip="yes")
    error = failure_of(provider.create, asked)
    assert isinstance(error, RuntimeUnavailableError)
    assert module in error.reason


@pytest.mark.parametrize("executable", ["", None, "/nowhere/python"])
def test_missing_interpreter_makes_python_unavailable(
    provider: LocalProvider, monkeypatch: pytest.MonkeyPatch, executable: str | None
) -> None:
    """If the Python of the server is unknown or gone, python is unavailable."""
    monkeypatch.setattr(sys, "executable", executable)
    error = failure_of(provider.create, PYTHON)
    assert isinstance(error, RuntimeUnavailableError)
    assert error.reason == "the Python of the server is gone"


def test_uninstalled_program_does_not_lose_workspace(
    provider: LocalProvider, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing program can be installed again, so the workspace is not lost."""
    provider.create(SHELL)
    monkeypatch.setenv("PATH", "/nowhere")
    error = failure_of(LocalProvider(root).probe, SHELL)
    assert type(error) is ProviderError
    assert error.reason == "the program sh is no longer on the search path"


def test_probes_share_one_search(provider: LocalProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many probes start no program, and search the machine once until that expires."""
    searches = []

    def search() -> host_tools.HostTools:
        searches.append(1)
        return host_tools.find_host_tools()

    monkeypatch.setattr(local, "find_host_tools", search)
    provider.create(PYTHON)
    monkeypatch.setattr(subprocess, "Popen", None)
    for _ in range(100):
        provider.probe(PYTHON)
    assert len(searches) == 1
    now = monotonic()
    monkeypatch.setattr("waggle_fsstore.provider.host_tools.monotonic", lambda: now + 61)
    provider.probe(PYTHON)
    assert len(searches) == 2
