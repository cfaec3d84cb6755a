# SPDX-License-Identifier: Apache-2.0
"""The removal of workspaces, also by several processes and after interruptions."""

import errno
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from tests.provider.conftest import (
    PYTHON,
    SHELL,
    Waiting,
    as_plain_user,
    entries_of,
    environment,
    failure_of,
    is_running,
    mode_of,
)
from waggle_fsstore.provider import local, workspace_dirs
from waggle_fsstore.provider.local import LocalProvider
from waggle_fsstore.provider.workspace_dirs import removal_name


def test_remove_is_idempotent(provider: LocalProvider, root: Path) -> None:
    """A missing workspace counts as removed."""
    provider.create(SHELL)
    provider.create(environment("b"))
    provider.remove(SHELL)
    provider.remove(SHELL)
    assert entries_of(root) == ["b"]
    provider.create(SHELL)


def test_remove_follows_no_link(provider: LocalProvider, root: Path) -> None:
    """The targets of links in a workspace are kept, also in a read-only directory."""
    outside = root.parent / "outside"
    outside.mkdir(mode=0o500)
    (root.parent / "file").touch()
    provider.create(SHELL)
    locked = root / "a" / "locked"
    locked.mkdir()
    (locked / "dir").symlink_to(outside)
    (locked / "file").symlink_to(root.parent / "file")
    (locked / "self").symlink_to(locked)
    locked.chmod(0o500)
    as_plain_user(lambda: provider.remove(SHELL))
    assert entries_of(root) == []
    assert mode_of(outside) == 0o500
    assert (root.parent / "file").exists()


@pytest.mark.parametrize("mode", [0o500, 0o400, 0o300, 0])
def test_remove_removes_locked_directories(provider: LocalProvider, root: Path, mode: int) -> None:
    """Directories that even their user cannot write to or read are removed."""
    provider.create(SHELL)
    deep = root / "a" / "x" / "y"
    deep.mkdir(parents=True)
    (deep / "file").touch()
    for directory in (deep, deep.parent, root / "a"):
        directory.chmod(mode)
    as_plain_user(lambda: provider.remove(SHELL))
    assert entries_of(root) == []


def test_deep_nesting_is_reported(provider: LocalProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    """If Python fails because directories are nested too deeply, a client gets a reason."""

    def fail(*_: object, **__: object) -> None:
        raise RecursionError("maximum recursion depth exceeded")

    provider.create(SHELL)
    monkeypatch.setattr(local, "_REMOVE_PAUSES_S", (0.0,))
    monkeypatch.setattr(shutil, "rmtree", fail)
    error = failure_of(provider.remove, SHELL)
    assert error.reason == "cannot remove its workspace: RecursionError"


def test_remove_removes_leftovers_of_killed_removal(provider: LocalProvider, root: Path) -> None:
    """The rest of a killed removal is removed by the next one, and no other."""
    for id_ in ("a", "a-b"):
        provider.create(environment(id_))
        (root / id_).rename(root / removal_name(id_))
    provider.create(environment("b"))
    provider.remove(environment("a"))
    left = entries_of(root)
    assert len(left) == 2
    assert left[0].startswith(".removing-a-b-")
    assert left[1] == "b"


def test_interrupted_removal_leaves_no_complete_workspace(
    provider: LocalProvider, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partly removed workspace no longer has its name, and can be removed further."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    provider.create(SHELL)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            provider.remove(SHELL)
    assert len(entries_of(root)) == 1
    assert failure_of(provider.probe, SHELL).reason == "its workspace is gone"
    provider.remove(SHELL)
    assert entries_of(root) == []


def test_remove_removes_files_written_during_removal(
    provider: LocalProvider, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The creation of a killed server that still writes does not prevent a removal."""
    rmtree = shutil.rmtree
    calls = []

    def disturbed(path: str, *, ignore_errors: bool = False) -> None:
        calls.append(path)
        if len(calls) <= 3:
            os.makedirs(root / "a" / ".venv", exist_ok=True)
            Path(path, f"new-{len(calls)}").touch()
            if not ignore_errors:
                raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)
        else:
            rmtree(path, ignore_errors=ignore_errors)

    provider.create(SHELL)
    monkeypatch.setattr(shutil, "rmtree", disturbed)
    provider.remove(SHELL)
    assert entries_of(root) == []


def test_endless_writer_is_reported(
    provider: LocalProvider, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A removal gives up and reports it; the rest is not an orphan."""
    remove_entry = workspace_dirs.remove_entry

    def disturbed(path: str) -> None:
        remove_entry(path)
        os.makedirs(root / "a")

    provider.create(SHELL)
    monkeypatch.setattr(local, "_REMOVE_PAUSES_S", (0.0, 0.0))
    monkeypatch.setattr(local, "remove_entry", disturbed)
    error = failure_of(provider.remove, SHELL)
    assert error.reason == "cannot remove its workspace: a program keeps writing to it"
    assert provider.find_orphans(["a"]) == []


def test_failed_removal_is_reported(
    provider: LocalProvider, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A root directory that is not writable keeps its workspaces, and the reason is reported."""
    provider.create(SHELL)
    root.chmod(0o500)
    monkeypatch.setattr(local, "_REMOVE_PAUSES_S", (0.0, 0.0))
    error = as_plain_user(lambda: failure_of(provider.remove, SHELL))
    assert error.reason == "cannot remove its workspace: Permission denied"
    assert isinstance(error.__cause__, PermissionError)
    root.chmod(0o700)
    provider.remove(SHELL)


def test_concurrent_removals_succeed(root: Path) -> None:
    """Of any number of concurrent removals, none raises, and nothing is left."""
    count = 4
    barrier = Barrier(count)
    LocalProvider(root).create(SHELL)
    for number in range(200):
        directory = root / "a" / str(number % 20) / str(number)
        directory.mkdir(parents=True)
        (directory / "file").touch()

    def remove(_: int) -> list[str]:
        barrier.wait()
        LocalProvider(root).remove(SHELL)
        return entries_of(root)

    with ThreadPoolExecutor(count) as pool:
        assert list(pool.map(remove, range(count))) == [[]] * count


def test_remove_interrupts_creation(provider: LocalProvider, root: Path, waiting: Waiting) -> None:
    """A removal stops a creation of the same environment, which then makes nothing more."""
    with ThreadPoolExecutor(1) as pool:
        creation = pool.submit(failure_of, provider.create, PYTHON)
        group = waiting.wait_for_start()
        provider.remove(PYTHON)
        assert not is_running(group)
        assert creation.result().reason == "the creation of its venv was interrupted"
    assert entries_of(root) == []
