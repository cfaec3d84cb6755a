# SPDX-License-Identifier: Apache-2.0
"""Listing and counting while others write."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.store.holding import lock_held
from waggle_fsstore import FileStore, LockTimeoutError
from waggle_fsstore.store.documents import Documents
from waggle_fsstore.store.state import StateRecord
from waggle_fsstore.testing import make_environment

Names = Callable[[Documents], list[str]]


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    store = FileStore(tmp_path / "store", durable=False)
    store.save_all([make_environment(id=name) for name in "abc"])
    return store


def during_listings(
    monkeypatch: pytest.MonkeyPatch, *events: Callable[[list[str]], list[str]]
) -> list[int]:
    """Let the n-th listing of a folder be changed by the n-th event; counts the listings."""
    real = Documents.names
    seen: list[int] = []

    def names(self: Documents) -> list[str]:
        seen.append(len(seen))
        found = real(self)
        return events[seen[-1]](found) if seen[-1] < len(events) else found

    monkeypatch.setattr(Documents, "names", names)
    return seen


def test_a_quiet_store_is_listed_once(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a change one listing is enough."""
    seen = during_listings(monkeypatch)
    assert store.count() == 3
    assert len(store.find_all()) == 3
    assert len(seen) == 2


def test_a_listing_that_a_change_cut_across_is_repeated(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file hidden while it is renamed over, as btrfs and tmpfs do, is not missed."""
    other = FileStore(store.path, durable=False)

    def hide(names: list[str]) -> list[str]:
        other.save(make_environment(id="b"))
        return [name for name in names if name != "b.json"]

    seen = during_listings(monkeypatch, hide, hide)
    assert [environment.id for environment in store.find_all()] == ["a", "b", "c"]
    assert len(seen) == 3


def test_after_three_tries_writers_are_kept_out(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scan that changes keep cutting across ends under the lock."""
    other = FileStore(store.path, durable=False)
    held: list[bool] = []

    def hide(names: list[str]) -> list[str]:
        held.append(store._reader_lock.locked)
        if not held[-1]:
            other.save(make_environment(id="b"))
            return [name for name in names if name != "b.json"]
        return names

    during_listings(monkeypatch, *[hide] * 9)
    assert store.count() == 3
    assert held == [False, False, False, True]


def test_a_change_that_began_before_the_scan(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change under way can hide a name from one listing, so a second one is joined to it."""
    record = StateRecord(str(store.path / ".waggle" / "state"))
    state = record.read()
    assert state is not None
    record.write(state._replace(committed=state.committed + 1))
    seen = during_listings(
        monkeypatch,
        lambda names: [name for name in names if name != "a.json"],
        lambda names: [name for name in names if name != "b.json"],
    )
    assert [environment.id for environment in store.find_all()] == ["a", "b", "c"]
    assert len(seen) == 2


def stop_a_batch(store: FileStore) -> None:
    """Leave the record as a writer does that is in the middle of a batch."""
    record = StateRecord(str(store.path / ".waggle" / "state"))
    state = record.read()
    assert state is not None
    record.write(state._replace(committed=state.committed + 2))


def test_half_a_batch_is_not_seen(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan that meets a batch under way waits until it is through."""
    stop_a_batch(store)
    held: list[bool] = []

    def look(names: list[str]) -> list[str]:
        held.append(store._reader_lock.locked)
        return names

    during_listings(monkeypatch, *[look] * 9)
    assert store.count() == 3
    assert held == [False] * 6 + [True]


def test_half_a_batch_of_a_stopped_writer(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where whoever is at a batch does not get on, a scan shows what there is, all of it."""
    stop_a_batch(store)
    monkeypatch.setattr("waggle_fsstore.store.file._HALF_BATCH_PATIENCE", 0.01)
    with lock_held(FileStore(store.path, durable=False)):
        assert [environment.id for environment in store.find_all()] == ["a", "b", "c"]


def test_a_busy_lock(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan that changes keep cutting across waits no longer for the lock than a writer."""
    monkeypatch.setattr("waggle_fsstore.store.file._FREE_SCANS", 0)
    impatient = FileStore(store.path, lock_timeout=0)
    with lock_held(store), pytest.raises(LockTimeoutError):
        impatient.count()


@pytest.mark.parametrize("kind", ["pipe", "folder", "garbage"])
def test_a_state_record_that_is_none(store: FileStore, kind: str) -> None:
    """Whatever stands in its place, reads go on, and a write names it."""
    path = store.path / ".waggle" / "state"
    path.unlink()
    {"pipe": lambda: os.mkfifo(path), "folder": path.mkdir, "garbage": path.touch}[kind]()
    assert store.count() == len(store.find_all()) == 3
    if kind == "garbage":
        store.save(make_environment(id="a"))
    else:
        with pytest.raises(OSError, match="state") as caught:
            store.save(make_environment(id="a"))
        assert caught.value.filename == str(path)


def test_a_document_deleted_during_the_scan(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is gone when it is read was deleted: it is neither listed nor an error."""

    def remove(names: list[str]) -> list[str]:
        os.unlink(store.document_path("b"))
        return names

    during_listings(monkeypatch, remove)
    assert [environment.id for environment in store.find_all()] == ["a", "c"]


def test_callbacks_run_once_and_without_the_lock(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repeated scan reports a bad file once, when no lock is held: the callback may write."""
    store.document_path("b").write_text("{")
    other = FileStore(store.path, durable=False)

    def change(names: list[str]) -> list[str]:
        if not store._reader_lock.locked:
            other.save(make_environment(id="a"))
        return names

    during_listings(monkeypatch, change, change, change, change)
    deleted: list[str] = []

    def on_corrupt(_: Exception) -> None:
        store.delete("b")
        deleted.append("b")

    assert [environment.id for environment in store.find_all(on_corrupt=on_corrupt)] == ["a", "c"]
    assert deleted == ["b"]


def test_a_store_that_nobody_ever_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan that needs the lock does without where there is no lock file, and makes none."""
    store = FileStore(tmp_path / "old", durable=False)
    store.save(make_environment(id="a"))
    folder = tmp_path / "copied" / "environments"
    folder.mkdir(parents=True)
    (folder / "a.json").write_bytes(store.document_path("a").read_bytes())
    monkeypatch.setattr("waggle_fsstore.store.file._FREE_SCANS", 0)
    assert FileStore(tmp_path / "copied").count() == 1
    assert [path.name for path in (tmp_path / "copied").iterdir()] == ["environments"]
