# SPDX-License-Identifier: Apache-2.0
"""Listing and counting while others write."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from waggle_fsstore import FileStore
from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.fs.disk import Disk
from waggle_fsstore.store.read.document_cache import DocumentCache
from waggle_fsstore.store.read.documents import Documents
from waggle_fsstore.store.write.publish import DocumentWrite
from waggle_fsstore.testing import make_environment

Names = Callable[[Documents], list[str]]


@pytest.fixture
def store(store: FileStore) -> FileStore:
    """A store with a, b and c."""
    store.save_all([make_environment(id=name) for name in "abc"])
    return store


def during_listings(
    monkeypatch: pytest.MonkeyPatch, *events: Callable[[list[str]], list[str]]
) -> list[int]:
    """Let the n-th listing of a folder be changed by the n-th event; counts the listings."""
    real = DocumentCache.names
    seen: list[int] = []

    def names(self: DocumentCache) -> list[str]:
        seen.append(len(seen))
        found = real(self)
        return events[seen[-1]](found) if seen[-1] < len(events) else found

    monkeypatch.setattr(DocumentCache, "names", names)
    return seen


def test_a_quiet_store_is_listed_once(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a change one listing is enough."""
    seen = during_listings(monkeypatch)
    assert store.count() == 3
    assert len(store.find_all()) == 3
    assert len(seen) == 2


def test_what_a_listing_misses_is_in_the_journal(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file hidden while it is renamed over, as btrfs and tmpfs do, is not missed."""
    other = FileStore(store.path, durable=False)

    def hide(names: list[str]) -> list[str]:
        other.save(make_environment(id="b", name="new"))
        return [name for name in names if name != "b.json"]

    seen = during_listings(monkeypatch, hide, hide)
    assert [environment.id for environment in store.find_all()] == ["a", "b", "c"]
    assert store.count() == 3
    assert len(seen) == 2


def test_all_or_nothing_of_a_batch_is_seen(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scan that reads one document before a batch and one after it shows both as after it."""
    other = FileStore(store.path, durable=False)
    real = Documents.read_all

    def read_all(self: Documents) -> Any:
        before = self.find("a")
        other.save_all([make_environment(id="a", name="new"), make_environment(id="b", name="new")])
        other.delete("c")
        after, bad = real(self)
        return [before, *(found for found in after if found.id != "a")], bad

    monkeypatch.setattr(Documents, "read_all", read_all)
    found = store.find_all()
    assert [(environment.id, environment.name) for environment in found] == [
        ("a", "new"),
        ("b", "new"),
    ]


def test_a_writer_that_was_stopped_in_the_middle(store: FileStore) -> None:
    """What is durable and not yet in place is seen by a scan, all of it, and waits for nobody."""
    reader = FileStore(store.path, durable=False)
    seen: list[list[str]] = []

    class Stopped(DocumentWrite):
        """The second rename of a batch does not come."""

        def publish(self, disk: Disk, layout: Layout) -> None:
            if self.document.endswith("b.json"):
                seen.append([environment.name for environment in reader.find_all()])
                seen.append([str(reader.count())])
            super().publish(disk, layout)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("waggle_fsstore.store.write.batch.DocumentWrite", Stopped)
        store.save_all([make_environment(id=name, name="new") for name in "abcd"])
    assert seen == [["new"] * 4, ["4"]]


def test_a_scan_waits_for_what_it_has_seen(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who scans and then reads a document does not go back in time."""
    reader = FileStore(store.path, durable=False)
    inside, done = threading.Event(), threading.Event()

    class Slow(DocumentWrite):
        def publish(self, disk: Disk, layout: Layout) -> None:
            inside.set()
            done.wait()
            super().publish(disk, layout)

    monkeypatch.setattr("waggle_fsstore.store.write.batch.DocumentWrite", Slow)
    monkeypatch.setattr("waggle_fsstore.store.read.view._PATIENCE", 60)
    monkeypatch.setattr("waggle_fsstore.store.read.view.time.sleep", lambda _: done.set())
    writer = threading.Thread(target=store.save, args=[make_environment(id="a", name="new")])
    writer.start()
    inside.wait()
    assert reader.find_all()[0].name == "new"
    assert reader.find_by_id("a").name == "new"
    writer.join()


def test_callbacks_may_write(store: FileStore) -> None:
    """A bad file is reported when no lock is held."""
    store.document_path("b").write_text("{")
    deleted: list[str] = []

    def on_corrupt(_: Exception) -> None:
        store.delete("b")
        deleted.append("b")

    assert [environment.id for environment in store.find_all(on_corrupt=on_corrupt)] == ["a", "c"]
    assert deleted == ["b"]


def test_a_folder_that_was_never_a_store(tmp_path: Path) -> None:
    """Documents copied by hand are read as they are, and reading makes nothing of them."""
    store = FileStore(tmp_path / "old", durable=False)
    store.save(make_environment(id="a"))
    folder = tmp_path / "copied" / "environments"
    folder.mkdir(parents=True)
    (folder / "a.json").write_bytes(store.document_path("a").read_bytes())
    copied = FileStore(tmp_path / "copied")
    assert copied.count() == len(copied.find_all()) == 1
    assert list(copied.history()) == []
    assert [path.name for path in (tmp_path / "copied").iterdir()] == ["environments"]


@pytest.mark.parametrize("kind", ["pipe", "folder", "garbage"])
def test_a_state_record_that_is_none(store: FileStore, kind: str) -> None:
    """Whatever stands in its place, reads go on, and a write names it."""
    path = store.path / ".waggle" / "state"
    path.unlink()
    {"pipe": lambda: os.mkfifo(path), "folder": path.mkdir, "garbage": path.touch}[kind]()
    assert store.count() == len(store.find_all()) == 3
    store = FileStore(store.path, durable=False)
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
