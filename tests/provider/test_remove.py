# SPDX-License-Identifier: Apache-2.0
"""The removal of workspaces: one rename, also by several processes and after interruptions."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
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
    trash_of,
)
from waggle_fsstore.provider import local, trash
from waggle_fsstore.provider.local import LocalProvider
from waggle_fsstore.provider.trash import Trash


def test_remove_is_idempotent(provider: LocalProvider, root: Path) -> None:
    """A missing workspace counts as removed."""
    provider.create(SHELL)
    provider.create(environment("b"))
    provider.remove(SHELL)
    provider.remove(SHELL)
    assert entries_of(root) == ["b"]
    assert trash_of(provider) == []
    provider.create(SHELL)


def test_removal_is_one_rename(
    provider: LocalProvider, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A removal deletes no file before it returns, however large the workspace is."""
    provider.create(SHELL)
    deleted: list[object] = []
    provider._emptying.stop()
    with monkeypatch.context() as patch:
        for name in ("unlink", "rmdir"):
            patch.setattr(os, name, lambda path, **_: deleted.append(path))
        provider.remove(SHELL)
    assert deleted == []
    assert entries_of(root) == []
    [entry] = trash_of(provider)
    assert entry.startswith("a.drop.")


def test_removal_by_killed_process_is_continued(root: Path) -> None:
    """What a removal had moved to the trash is emptied by the next server."""
    killed = LocalProvider(root)
    killed.create(SHELL)
    killed._emptying.stop()
    killed.remove(SHELL)
    provider = LocalProvider(root)
    assert len(trash_of(provider)) == 1
    provider.tidy(timedelta(0), [])
    assert trash_of(provider) == []
    provider.close()


def test_remove_moves_leftovers_of_earlier_version(provider: LocalProvider, root: Path) -> None:
    """What an earlier version had begun to remove goes too, and that of no other environment."""
    for id_ in ("a", "a-b"):
        provider.create(environment(id_))
        (root / id_).rename(root / f".removing-{id_}-0")
    provider.create(environment("b"))
    provider.remove(environment("a"))
    assert entries_of(root) == [".removing-a-b-0", "b"]
    assert trash_of(provider) == []


def test_remove_moves_files_written_during_removal(
    provider: LocalProvider, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The creation of a killed server that still writes does not prevent a removal."""
    real = Trash.put
    calls: list[str] = []

    def disturbed(trash: Trash, workspace: str, entry: str, *, keep: bool) -> None:
        real(trash, workspace, entry, keep=keep)
        calls.append(entry)
        if len(calls) <= 3:
            os.makedirs(root / "a" / "home" / ".venv")

    provider.create(SHELL)
    monkeypatch.setattr(local, "_REMOVE_PAUSES_S", (0.0,) * 4)
    monkeypatch.setattr(Trash, "put", disturbed)
    provider.remove(SHELL)
    assert calls == ["a"] * 4
    assert entries_of(root) == []


def test_endless_writer_is_reported(
    provider: LocalProvider, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A removal gives up and reports it; the rest is not an orphan."""
    real = Trash.put

    def disturbed(trash: Trash, workspace: str, entry: str, *, keep: bool) -> None:
        real(trash, workspace, entry, keep=keep)
        os.makedirs(root / "a")

    provider.create(SHELL)
    monkeypatch.setattr(local, "_REMOVE_PAUSES_S", (0.0, 0.0))
    monkeypatch.setattr(Trash, "put", disturbed)
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


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EACCES, errno.EPERM])
def test_workspace_that_cannot_be_moved_is_left(
    provider: LocalProvider, root: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """One of another user, or of a lower layer, stays in its place and is tried again."""

    def refuse(source: str, _: str) -> None:
        raise OSError(number, os.strerror(number), source)

    provider.create(SHELL)
    with monkeypatch.context() as patch:
        patch.setattr(trash, "move", refuse)
        provider.remove(SHELL)
        provider.tidy(timedelta(0), [])
    assert provider.leftovers.orphans == 1
    assert provider.find_orphans([]) == []
    assert (root / "a" / "home").is_dir()
    provider.tidy(timedelta(0), [])
    assert trash_of(provider) == []
    assert not (root / "a").exists()
    assert provider.leftovers.orphans == 0


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
        provider = LocalProvider(root)
        barrier.wait()
        provider.remove(SHELL)
        left = entries_of(root)
        provider._emptying.wait()
        return left

    with ThreadPoolExecutor(count) as pool:
        assert list(pool.map(remove, range(count))) == [[]] * count
    assert trash_of(LocalProvider(root)) == []


def test_remove_interrupts_creation(provider: LocalProvider, root: Path, waiting: Waiting) -> None:
    """A removal stops a creation of the same environment, which then makes nothing more."""
    with ThreadPoolExecutor(1) as pool:
        creation = pool.submit(failure_of, provider.create, PYTHON)
        group = waiting.wait_for_start()
        provider.remove(PYTHON)
        assert not is_running(group)
        assert creation.result().reason == "the creation of its venv was interrupted"
    assert entries_of(root) == []
