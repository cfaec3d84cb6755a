# SPDX-License-Identifier: Apache-2.0
"""A store that was there and is gone is an error; nothing is made in its place."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.store.journals import fill_segments
from tests.store.read.test_cursors import seqs
from waggle_fsstore import (
    Environment,
    EnvironmentNotFoundError,
    FileStore,
    HistoryLostError,
    StoreGoneError,
)
from waggle_fsstore.store.fs import lock
from waggle_fsstore.store.read import stat_signature
from waggle_fsstore.store.read.view import View
from waggle_fsstore.store.server_lock import ServerLock
from waggle_fsstore.testing import make_environment

Call = Callable[[FileStore], object]


def move(root: Path) -> None:
    root.rename(root.with_name("away"))


def unmount(root: Path) -> None:
    """Leave an empty directory, as the mount point of a disk is."""
    move(root)
    root.mkdir()


def put_file(root: Path) -> None:
    """Leave a file, as a failed copy to the path of the store does."""
    move(root)
    root.write_text("")


def take_marker(root: Path) -> None:
    shutil.copytree(root, root.with_name("away"))
    (root / "waggle.json").unlink()


TAKE_AWAY = pytest.mark.parametrize("take_away", [move, unmount, put_file, take_marker])

CALLS: dict[str, Call] = {
    "find_by_id": lambda store: store.find_by_id("a"),
    "find_by_id of another": lambda store: store.find_by_id("b"),
    "find_all": lambda store: store.find_all(),
    "iter_all": lambda store: list(store.iter_all()),
    "count": lambda store: store.count(),
    "history": lambda store: list(store.history()),
    "watch": lambda store: list(store.watch(after=0, timeout=0)),
    "save": lambda store: store.save(make_environment(id="a")),
    "create": lambda store: store.create(make_environment(id="c"), capacity=9),
    "update": lambda store: store.update("a", Environment.touch),
    "save_all": lambda store: store.save_all([make_environment(id="a")]),
    "delete": lambda store: store.delete("c"),
    "check_writable": lambda store: store.check_writable(timeout=1),
    "check": lambda store: list(store.check()),
    "repair": lambda store: list(store.repair()),
    "snapshot": lambda store: store.snapshot(store.path.with_name("snapshot")),
    "restore": lambda store: store.restore(store.path.with_name("away")),
    "restore_revision": lambda store: store.restore_revision("a", 1),
    "prune_history": lambda store: store.prune_history(keep_bytes=1 << 30),
    "info": lambda store: store.info(),
    "with": lambda store: store.__enter__(),
}


def files_below(path: Path) -> list[Path]:
    return sorted(path.rglob("*"))


@TAKE_AWAY
def test_gone_store_is_an_error_until_it_is_back(
    store: FileStore, take_away: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call raises with the path and makes nothing; once the store is back, all work.

    A document that is still there is found.
    """
    # A writer looks for the marker alone once a second: here, each time.
    monkeypatch.setattr(lock, "_MAX_HOLDER_AGE_NS", 0)
    root = store.path
    store.save(make_environment(id="a"))
    [event] = store.history()
    watch, history = store.watch(timeout=0), store.history()
    take_away(root)
    before = files_below(root)
    for name, call in CALLS.items():
        if (take_away, name) == (take_marker, "find_by_id"):
            assert call(store)  # The document is there.
            continue
        with pytest.raises(StoreGoneError) as caught:
            call(store)
        assert caught.value.path == root, name
    with pytest.raises(StoreGoneError):
        next(watch)
    if take_away in (move, unmount):
        with pytest.raises(StoreGoneError):
            list(history)
    assert files_below(root) == before
    shutil.rmtree(root, ignore_errors=True)
    if take_away is put_file:
        root.unlink()
    root.with_name("away").rename(root)
    if take_away is not take_marker:  # It is the very same store, not a copy.
        assert seqs(store.history(after=event.cursor)) == []
    assert store.find_by_id("a").revision == 1
    for name, call in CALLS.items():
        if name not in ("find_by_id of another", "restore"):
            call(store)


@pytest.mark.usefixtures("trusted_change_times")
def test_count_of_unchanged_directory_needs_no_marker(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that is as it was when it was listed shows that its documents are there."""
    monkeypatch.setattr(stat_signature, "_SETTLING_TIME_NS", 0)
    store.save(make_environment(id="a"))
    time.sleep(0.05)  # Longer than a tick of the file clock.
    assert store.count() == 1
    (store.path / "waggle.json").unlink()
    assert store.count() == 1
    (store.path / "environments" / "b.json").write_text("{}")
    with pytest.raises(StoreGoneError):
        store.count()


def test_opening_begins_a_store_where_none_was_seen(root: Path) -> None:
    """A path without a store stays empty and silent until the first write."""
    store = FileStore(root, durable=False)
    for _ in range(2):
        assert (store.find_all(), store.count(), list(store.history())) == ([], 0, [])
        with pytest.raises(EnvironmentNotFoundError):
            store.find_by_id("a")
        with pytest.raises(EnvironmentNotFoundError):
            store.delete("a")
        shutil.rmtree(root, ignore_errors=True) if root.exists() else root.mkdir()
    assert not files_below(root)
    store.save(make_environment(id="a"))
    shutil.rmtree(root)
    with pytest.raises(StoreGoneError):
        store.save(make_environment(id="a"))
    assert not root.exists()
    with FileStore(root, durable=False) as other:  # Has seen no store.
        other.save(make_environment(id="b"))
    assert [one.id for one in store.find_all()] == ["b"]


def test_close_of_gone_store_makes_nothing(
    durable_store: FileStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Closing raises nothing where the store is gone: a failed checkpoint loses no change."""
    durable_store.save(make_environment(id="a"))
    unmount(durable_store.path)
    durable_store.close()
    assert not files_below(durable_store.path)
    assert "the store is gone" in caplog.text


def test_gone_clone_without_marker_is_noticed(store: FileStore) -> None:
    """Documents without a marker, as in a git clone, are a store that can be gone as well."""
    store.save(make_environment(id="a"))
    store.close()
    for name in ("waggle.json", ".gitignore"):
        (store.path / name).unlink()
    shutil.rmtree(store.path / "journal")
    shutil.rmtree(store.path / ".waggle")
    with FileStore(store.path, durable=False) as clone:
        assert clone.count() == 1
        unmount(store.path)
        for call in (clone.count, lambda: clone.save(make_environment(id="b"))):
            with pytest.raises(StoreGoneError):
                call()
        assert not files_below(store.path)


def test_other_store_in_its_place_is_used(root: Path, tmp_path: Path) -> None:
    """Another store at the path is read and written; only cursors and watches are refused."""
    store, other = FileStore(root, durable=False), FileStore(tmp_path / "other", durable=False)
    for number in range(3):
        store.save(make_environment(id=f"one-{number}"))
        other.save(make_environment(id=f"two-{number}"))
        other.save(make_environment(id=f"two-{number}"))
    *_, last = store.history()
    watch = store.watch(timeout=0)
    other.close()
    move(root)
    other.path.rename(root)
    assert [one.id for one in store.find_all()] == ["two-0", "two-1", "two-2"]
    revision = store.save(make_environment(id="two-3"))
    assert revision > 6
    assert seqs(store.history()) == [*range(1, 7), revision]
    with pytest.raises(HistoryLostError):
        store.history(after=last.cursor)
    with pytest.raises(HistoryLostError):
        next(watch)


def test_removed_documents_directory_is_recovered_by_reads(store: FileStore) -> None:
    """Without its documents' directory the store is not empty: the journal has the documents."""
    for name in "ab":
        store.save(make_environment(id=name))
    calls: list[tuple[Call, object]] = [
        (lambda store: store.find_by_id("a").id, "a"),
        (lambda store: [one.id for one in store.find_all()], ["a", "b"]),
        (lambda store: store.count(), 2),
    ]
    for call, expected in calls:
        shutil.rmtree(store.path / "environments")
        assert call(store) == expected
        assert call(FileStore(store.path, durable=False)) == expected


def test_removed_lock_file_is_made_again(store: FileStore) -> None:
    """The lock file alone, or all of .waggle, can be lost without harm."""
    removals: list[Callable[[], object]] = [
        (store.path / ".waggle" / "lock").unlink,
        lambda: shutil.rmtree(store.path / ".waggle"),
    ]
    for number, remove in enumerate(removals):
        store.save(make_environment(id="a"))
        remove()
        assert store.count() == 1
        assert store.save(make_environment(id="a")) == 2 * number + 2


def test_store_that_vanishes_during_a_read_is_noticed(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a scan did not find because the store was just removed is not reported as missing."""
    store.save(make_environment(id="a"))

    def vanish(method: str) -> None:
        real = getattr(View, method)

        def wrapped(self: View, *arguments: object) -> object:
            if store.path.exists():
                move(store.path)
            return real(self, *arguments)

        monkeypatch.setattr(View, method, wrapped)

    for method, call in (
        ("find", CALLS["find_by_id"]),
        ("find_all", CALLS["find_all"]),
        ("count", CALLS["count"]),
    ):
        vanish(method)
        with pytest.raises(StoreGoneError):
            call(store)
        store.path.with_name("away").rename(store.path)


def test_history_in_progress_tells_a_gone_store_from_pruning(store: FileStore) -> None:
    """An iteration that finds its next segment missing says that the store is gone."""
    fill_segments(store, 12)
    events = store.history()
    assert next(events).seq == 1
    move(store.path)
    with pytest.raises(StoreGoneError):
        list(events)


@pytest.mark.parametrize("is_held", [True, False])
def test_server_lock_makes_nothing_where_a_store_was(store: FileStore, is_held: bool) -> None:
    """A server that takes its lock again does not make the directory of a store that is gone."""
    store.save(make_environment(id="a"))
    lock = ServerLock(store.path, "server.lock")
    assert lock.try_acquire()
    if not is_held:
        lock.release()
    unmount(store.path)
    with pytest.raises(StoreGoneError):
        lock.try_acquire()
    assert not files_below(store.path)
    store.path.rmdir()
    store.path.with_name("away").rename(store.path)
    assert lock.try_acquire()
    lock.release()


def test_store_made_during_a_look_is_not_gone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that has found no store is not deceived by another one that makes it meanwhile."""
    with FileStore(root) as store:
        real = os.stat

        def look(path: Any, **options: Any) -> os.stat_result:
            try:
                return real(path, **options)
            except FileNotFoundError:
                if path == os.fspath(root / "waggle.json"):
                    monkeypatch.undo()
                    store.save(make_environment(id="a"))
                raise

        monkeypatch.setattr(os, "stat", look)
        assert [one.id for one in store.find_all()] == ["a"]
