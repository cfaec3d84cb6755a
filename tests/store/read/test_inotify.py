# SPDX-License-Identifier: Apache-2.0
"""Notices of the changes in a folder: whose they are, and what is said when some are lost."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.store.recorder import open_descriptors
from waggle_fsstore.store.read import inotify
from waggle_fsstore.store.read.inotify import DirectoryWatcher

pytestmark = pytest.mark.usefixtures("needs_notices")

MOST_QUEUED = Path("/proc/sys/fs/inotify/max_queued_events")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in "abc":
        (folder / name).write_text(name)
    return folder


@pytest.fixture
def noticed(folder: Path) -> Iterator[DirectoryWatcher]:
    noticed = DirectoryWatcher(str(folder))
    yield noticed
    noticed.close()


def move_in(path: Path) -> None:
    file = path.parent.with_name("file")
    file.write_text("x")
    file.replace(path)


CHANGES: dict[str, Callable[[Path], object]] = {
    "written": lambda path: path.write_text("x"),
    "cut off": lambda path: os.truncate(path, 0),
    "removed": lambda path: path.unlink(),
    "renamed over": lambda path: path.with_name("a").replace(path),
    "moved in": move_in,
    "moved out": lambda path: path.rename(path.parent.with_name("out")),
    "its mode": lambda path: path.chmod(0o400),
    "its times": lambda path: os.utime(path, (1, 1)),
    "a folder beside it": lambda path: path.with_name("d").mkdir(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_each_change(folder: Path, noticed: DirectoryWatcher, change: str) -> None:
    """Whatever becomes of a file, its name is told, once."""
    assert noticed.changed() == set()
    CHANGES[change](folder / "b")
    expected = {"renamed over": {"a", "b"}, "a folder beside it": {"d"}}.get(change, {"b"})
    assert noticed.changed() == expected
    assert noticed.changed() == set()


def test_reading_is_no_change(folder: Path, noticed: DirectoryWatcher) -> None:
    """Otherwise each look would be the cause of the next."""
    (folder / "b").read_text()
    os.listdir(folder)
    (folder / "b").stat()
    assert noticed.changed() == set()


def test_names_of_any_bytes(folder: Path, noticed: DirectoryWatcher) -> None:
    """A name comes as the functions of os take it."""
    name = os.fsdecode(b"\xff\xfe long " + b"x" * 200)
    (folder / name).write_text("x")
    assert noticed.changed() == {name}


def test_more_than_the_system_keeps(folder: Path, noticed: DirectoryWatcher) -> None:
    """Where notices were lost all may have changed; later ones are told again."""
    if int(MOST_QUEUED.read_text()) > 100_000:
        pytest.skip("this system keeps too many notices to fill it in a test")
    for number in range(int(MOST_QUEUED.read_text()) + 1):
        os.utime(folder / "ab"[number % 2])
    assert noticed.changed() is None
    (folder / "c").write_text("x")
    assert noticed.changed() == {"c"}


def test_more_than_is_read_at_once(
    folder: Path, noticed: DirectoryWatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who changes files faster than notices are read holds up nobody: all may have changed."""
    monkeypatch.setattr(inotify, "_READ_BYTES", 64)
    monkeypatch.setattr(inotify, "_MOST_READS", 3)
    for number in range(10):
        os.utime(folder / "ab"[number % 2])
    answers = [noticed.changed() for _ in range(5)]
    assert answers[0] is None
    assert answers[-1] == set()


def test_closed(folder: Path) -> None:
    """Of a closed one nothing is known: a signal handler may close a store that lists."""
    noticed = DirectoryWatcher(str(folder))
    noticed.close()
    assert noticed.changed() is None
    assert not noticed.is_in_place()
    noticed.close()


def test_something_happens_to_the_folder(folder: Path, noticed: DirectoryWatcher) -> None:
    """It was moved, another one is in its place, or none: what is at its path is not noticed."""
    moved = folder.with_name("moved")
    folder.rename(moved)
    assert noticed.changed() is None
    assert not noticed.is_in_place()
    folder.mkdir()
    assert noticed.changed() is None
    (moved / "a").write_text("x")
    assert noticed.changed() is None
    folder.rmdir()
    moved.rename(folder)
    assert noticed.is_in_place()


def test_a_folder_above_is_exchanged(tmp_path: Path) -> None:
    """The folder itself is told nothing of that, but it is not at its path any more."""
    above = tmp_path / "above"
    (above / "folder").mkdir(parents=True)
    noticed = DirectoryWatcher(str(above / "folder"))
    above.rename(tmp_path / "old")
    (above / "folder").mkdir(parents=True)
    assert noticed.changed() is None
    noticed.close()


@pytest.mark.parametrize("trouble", ["nothing there", "a file", "too many", "not of this system"])
def test_none_to_be_had(folder: Path, monkeypatch: pytest.MonkeyPatch, trouble: str) -> None:
    """It is told, and nothing stays open."""
    before = open_descriptors()
    path = folder / {"nothing there": "x", "a file": "a"}.get(trouble, "")
    if trouble == "too many":

        def refuse(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(inotify, "inotify_add_watch", refuse)
    if trouble == "not of this system":
        monkeypatch.setattr("waggle_fsstore.store.fs.linux._libc", object)
    assert DirectoryWatcher.try_open(str(path)) is None
    assert open_descriptors() == before
