# SPDX-License-Identifier: Apache-2.0
"""Fixtures and helpers of the provider tests: a provider, its failures, waiting programs."""

import ctypes
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest

from waggle_fsstore import Environment, ProviderError, Runtime
from waggle_fsstore.provider import local
from waggle_fsstore.provider.executor import LocalExecutor
from waggle_fsstore.provider.local import LocalProvider
from waggle_fsstore.provider.sandbox.find import find_sandbox

P = ParamSpec("P")
T = TypeVar("T")

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")

HOSTILE_IDS = [
    *("..", ".", "a/b", "../../etc", "/", "A", "con", "com1", "~", "-a", ".removing-a-0", "\n"),
    *("\U0001f41d", "\u0001" * 200, "x" * 200, "x" * 101, "é" * 100, "a.json", "a\\b", "a:b"),
]

_CAPABILITY_VERSION_3 = 0x20080522


def environment(
    id: str = "a",  # noqa: A002  # Named like the field.
    runtime: Runtime = Runtime.SHELL,
    **labels: str,
) -> Environment:
    return Environment(id=id, name="Any name, /at all", runtime=runtime, labels=labels)


SHELL = environment()
PYTHON = environment(runtime=Runtime.PYTHON)
NODE = environment(runtime=Runtime.NODE)


def failure_of(call: Callable[P, object], *arguments: P.args, **options: P.kwargs) -> ProviderError:
    """Return the error that a call raises, whose reason is one line without a path."""
    with pytest.raises(ProviderError) as caught:
        call(*arguments, **options)
    error = caught.value
    assert error.provider == "local-2"
    assert error.reason
    assert error.reason.isprintable()
    assert "/" not in error.reason
    return error


def as_plain_user(call: Callable[[], T]) -> T:
    """Make a call without the rights of root, whom no file mode stops."""
    if os.geteuid() != 0:
        return call()
    if sys.platform != "linux":
        pytest.skip("root cannot be made a plain user here")

    def without_capabilities() -> T:
        # Those of one thread, which ends with the call (capset(2)).
        header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
        assert ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)()) == 0
        return call()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(without_capabilities).result()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def entries_of(directory: Path) -> list[str]:
    names = {path.name for path in directory.iterdir()} if directory.exists() else set()
    return sorted(names - {".waggle-root", ".waggle-workspaces", ".trash"})


def trash_of(provider: LocalProvider) -> list[str]:
    """Return the entries of the trash, once nothing is being emptied."""
    provider._emptying.wait()
    trash = provider.root / ".trash"
    names = {path.name for path in trash.iterdir()} if trash.exists() else set()
    return sorted(names - {".lived"})


def is_running(group: int) -> bool:
    """Return whether any process of a group exists, which may be a zombie."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


class Waiting:
    """A program in place of the one that makes a venv: it writes its process id, and waits."""

    def __init__(self, directory: Path, trap: str) -> None:
        self._started = directory / "started"
        self._release = directory / "release"
        os.mkfifo(self._started)
        os.mkfifo(self._release)
        self.command = ["/bin/sh", "-c", f'{trap} echo $$ >"$0"; read x <"$1"']
        self.command += [str(self._started), str(self._release)]

    def wait_for_start(self) -> int:
        """Return its process id, once it runs."""
        return int(self._started.read_text())

    def release(self) -> None:
        """Let it end."""
        self._release.write_text("go\n")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def provider(root: Path) -> Iterator[LocalProvider]:
    provider = LocalProvider(root)
    yield provider
    provider.close()


@pytest.fixture
def isolated(root: Path) -> Iterator[LocalExecutor]:
    """What runs programs in sandboxes; the test is skipped where there can be none."""
    find = partial(find_sandbox, str(root), "", [str(root)])
    executor = LocalExecutor(root, find, provider=LocalProvider.name)
    if reason := executor.why_unavailable():
        pytest.skip(f"programs cannot be isolated here: {reason}")
    yield executor
    executor.close()


@pytest.fixture
def waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Waiting:
    """A venv whose creation lasts until it is released or stopped."""
    program = Waiting(tmp_path, trap="")
    monkeypatch.setattr(local, "_venv_command", lambda *_: program.command)
    return program


@pytest.fixture
def stubborn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Waiting:
    """The same, but only SIGKILL stops it."""
    program = Waiting(tmp_path, trap="trap '' TERM;")
    monkeypatch.setattr(local, "_venv_command", lambda *_: program.command)
    monkeypatch.setattr("waggle_fsstore.provider.process_groups._GRACE_PERIOD_S", 0.05)
    return program
