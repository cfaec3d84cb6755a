# SPDX-License-Identifier: Apache-2.0
"""What the tests of providers share: a provider, its failures, programs that wait."""

import ctypes
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest

from waggle_fsstore import Environment, ProviderError, Runtime
from waggle_fsstore.provider import local
from waggle_fsstore.provider.local import LocalProvider

T = TypeVar("T")

_CAPABILITY_VERSION_3 = 0x20080522


def environment(
    id: str = "a",  # noqa: A002  # As the field is called.
    runtime: Runtime = Runtime.SHELL,
    **labels: str,
) -> Environment:
    return Environment(id=id, name="Any name, /at all", runtime=runtime, labels=labels)


def failure_of(call: Callable[[], object], provider: LocalProvider) -> ProviderError:
    """The error that a call raises, its reason being one line without a path."""
    with pytest.raises(ProviderError) as caught:
        call()
    error = caught.value
    assert error.provider == "local"
    assert error.reason
    assert error.reason.isprintable()
    assert os.path.dirname(provider.locate(environment())) not in error.reason
    assert "/" not in error.reason
    return error


def as_plain_user(call: Callable[[], T]) -> T:
    """Make a call without the rights of root, who is stopped by no mode of a file."""
    if os.geteuid() != 0:
        return call()
    if sys.platform != "linux":
        pytest.skip("root cannot be made a plain user here")

    def without_rights() -> T:
        # The rights of one thread, which ends with the call.
        header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
        assert ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)()) == 0
        return call()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(without_rights).result()


class Waiting:
    """A program in the place of the one that makes a venv: it says its id, then it waits."""

    def __init__(self, folder: Path, trap: str) -> None:
        self._started = folder / "started"
        self._release = folder / "release"
        os.mkfifo(self._started)
        os.mkfifo(self._release)
        self.command = ["/bin/sh", "-c", f'{trap} echo $$ >"$0"; read x <"$1"']
        self.command += [str(self._started), str(self._release)]

    def wait_for_start(self) -> int:
        """The id of its process, once it runs."""
        return int(self._started.read_text())

    def release(self) -> None:
        """Let it end."""
        self._release.write_text("go\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def provider(root: Path) -> LocalProvider:
    return LocalProvider(root)


@pytest.fixture
def waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Waiting:
    """A venv is in the making until somebody releases or stops it."""
    program = Waiting(tmp_path, trap="")
    monkeypatch.setattr(local, "_venv_command", lambda *_: program.command)
    return program


@pytest.fixture
def stubborn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Waiting:
    """The same, but it ends by force only."""
    program = Waiting(tmp_path, trap="trap '' TERM;")
    monkeypatch.setattr(local, "_venv_command", lambda *_: program.command)
    monkeypatch.setattr("waggle_fsstore.provider.process_groups._GRACE_PERIOD_S", 0.05)
    return program
