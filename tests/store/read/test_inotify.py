# SPDX-License-Identifier: Apache-2.0
"""Changes that a directory watcher reports, and those that it reports as unknown."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.store.recorder import open_descriptors
from waggle_fsstore.store.read import inotify
from waggle_fsstore.store.read.inotify import DirectoryWatcher

pytestmark = pytest.mark.usefixtures("needs_inotify")

MAX_QUEUED_EVENTS = Path("/proc/sys/fs/inotify/max_queued_events")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / "directory"
    directory.mkdir()
    for name in "abc":
        (directory / name).write_text(name)
    return directory


@pytest.fixture
def watcher(directory: Path) -> Iterator[DirectoryWatcher]:
    watcher = DirectoryWatcher(str(directory))
    yield watcher
    watcher.close()


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
    "a directory beside it": lambda path: path.with_name("d").mkdir(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_change_is_reported_once(directory: Path, watcher: DirectoryWatcher, change: str) -> None:
    """Every kind of change of a file is reported once, by name."""
    assert watcher.changed() == set()
    CHANGES[change](directory / "b")
    expected = {"renamed over": {"a", "b"}, "a directory beside it": {"d"}}.get(change, {"b"})
    assert watcher.changed() == expected
    assert watcher.changed() == set()


def test_reads_are_not_reported(directory: Path, watcher: DirectoryWatcher) -> None:
    """Reads cause no event; otherwise every listing would cause another one."""
    (directory / "b").read_text()
    os.listdir(directory)
    (directory / "b").stat()
    assert watcher.changed() == set()


def test_undecodable_name_is_reported(directory: Path, watcher: DirectoryWatcher) -> None:
    """A name is decoded in the same way as in the functions of os."""
    name = os.fsdecode(b"\xff\xfe long " + b"x" * 200)
    (directory / name).write_text("x")
    assert watcher.changed() == {name}


def test_queue_overflow_is_reported_as_unknown(directory: Path, watcher: DirectoryWatcher) -> None:
    """If events were lost, any file may have changed; later events are reported again."""
    if int(MAX_QUEUED_EVENTS.read_text()) > 100_000:
        pytest.skip("this system keeps too many events to fill it in a test")
    for number in range(int(MAX_QUEUED_EVENTS.read_text()) + 1):
        os.utime(directory / "ab"[number % 2])
    assert watcher.changed() is None
    (directory / "c").write_text("x")
    assert watcher.changed() == {"c"}


def test_endless_events_are_reported_as_unknown(
    directory: Path, watcher: DirectoryWatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that changes files faster than events are read cannot block a reader."""
    monkeypatch.setattr(inotify, "_READ_BYTES", 512)
    monkeypatch.setattr(inotify, "_MAX_READS", 3)
    for number in range(100):
        os.utime(directory / "ab"[number % 2])
    answers = [watcher.changed() for _ in range(5)]
    assert answers[0] is None
    assert answers[-1] == set()


def test_closed_watcher_reports_unknown(directory: Path) -> None:
    """A closed watcher knows nothing: a signal handler may close a store during a listing."""
    watcher = DirectoryWatcher(str(directory))
    watcher.close()
    assert watcher.changed() is None
    assert watcher.has_events()
    assert not watcher.watches(directory.stat())
    watcher.close()


def test_moved_directory_is_detected(directory: Path, watcher: DirectoryWatcher) -> None:
    """A watcher detects that its directory was moved away, and that another one replaced it."""
    moved = directory.with_name("moved")
    directory.rename(moved)
    assert watcher.changed() is None
    assert not watcher.watches(None)
    directory.mkdir()
    assert not watcher.watches(directory.stat())
    (moved / "a").write_text("x")
    assert not watcher.watches(directory.stat())
    directory.rmdir()
    moved.rename(directory)
    assert watcher.watches(directory.stat())


def test_replaced_parent_directory_is_detected(tmp_path: Path) -> None:
    """The directory gets no event for that, but is no longer at its path."""
    above = tmp_path / "above"
    (above / "directory").mkdir(parents=True)
    watcher = DirectoryWatcher(str(above / "directory"))
    above.rename(tmp_path / "old")
    (above / "directory").mkdir(parents=True)
    assert watcher.changed() == set()
    assert not watcher.watches((above / "directory").stat())
    watcher.close()


def test_events_that_wait_are_not_read(directory: Path, watcher: DirectoryWatcher) -> None:
    """A look whether there are events leaves them to the next read."""
    assert not watcher.has_events()
    (directory / "a").write_text("y")
    assert watcher.has_events()
    assert watcher.changed() == {"a"}
    assert not watcher.has_events()


@pytest.mark.parametrize("trouble", ["nothing there", "a file", "too many", "not of this system"])
def test_unavailable_watcher_is_none(
    directory: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    """Where no watcher is available, ``try_open`` returns ``None`` and leaves nothing open."""
    before = open_descriptors()
    path = directory / {"nothing there": "x", "a file": "a"}.get(trouble, "")
    if trouble == "too many":

        def refuse(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(inotify, "inotify_add_watch", refuse)
    if trouble == "not of this system":

        def lack(_: str) -> None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

        monkeypatch.setattr("waggle_fsstore.store.fs.linux._function", lack)
    assert DirectoryWatcher.try_open(str(path)) is None
    assert open_descriptors() == before
