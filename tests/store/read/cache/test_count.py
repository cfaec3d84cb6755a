# SPDX-License-Identifier: Apache-2.0
"""The count, which lists the names only where they may have changed."""

import os
import shutil
from collections.abc import Callable

import pytest

from tests.store.read.cache.listings import by_signature, documents_dir, names_listed, settle
from waggle_fsstore import FileStore
from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.fs.disk import Disk
from waggle_fsstore.store.read.document_cache import DocumentCache
from waggle_fsstore.store.write.publish import DocumentWrite
from waggle_fsstore.testing import make_environment

pytestmark = [
    pytest.mark.usefixtures("trusted_change_times", "cached_from_next_tick"),
    by_signature,
]


@pytest.fixture
def listings(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The listings of the directory since the store was counted."""
    settle(store)
    return names_listed(monkeypatch)


def _exchange_store(store: FileStore) -> None:
    """Put a store with one document less in the place of a store."""
    other = store.path.with_name("other")
    shutil.copytree(store.path, other)
    (other / "environments" / "a.json").unlink()
    store.path.rename(store.path.with_name("away"))
    other.rename(store.path)


# What a manual edit does to the names, and the count of three documents after it.
EDITS: dict[str, tuple[Callable[[FileStore], object], int]] = {
    "copied": (lambda s: shutil.copy(s.document_path("a"), s.document_path("d")), 4),
    "linked": (lambda s: os.link(s.document_path("a"), s.document_path("d")), 4),
    "removed": (lambda s: s.document_path("a").unlink(), 2),
    "renamed over another": (lambda s: s.document_path("a").rename(s.document_path("b")), 2),
    "renamed to a foreign name": (lambda s: s.document_path("a").rename(s.path / "a.txt"), 2),
    "all removed": (lambda s: shutil.rmtree(documents_dir(s)), 3),  # Recovery brings them back.
    "store exchanged": (_exchange_store, 2),
}


def test_unchanged_names_are_not_listed_again(store: FileStore, listings: list[str]) -> None:
    """A count of a store that is unchanged lists nothing, also after edits of the contents."""
    store.document_path("a").write_text("{")
    assert [store.count() for _ in range(3)] == [3, 3, 3]
    assert listings == []


@pytest.mark.parametrize("edit", EDITS)
def test_manual_edit_is_counted(store: FileStore, listings: list[str], edit: str) -> None:
    """The next count includes what any manual edit did to the names."""
    change, expected = EDITS[edit]
    change(store)
    assert store.count() == expected
    assert listings


def test_changes_of_another_object_are_counted(store: FileStore, listings: list[str]) -> None:
    """Each save and delete of another store object is included in the next count."""
    other = FileStore(store.path, durable=False)
    counts = []
    for name in "dea":
        other.save(make_environment(id=name))
        counts.append(store.count())
        settle(store)
        other.delete(name)
        counts.append(store.count())
    assert counts == [4, 3, 4, 3, 3, 2]
    assert listings


def test_change_before_its_rename_is_counted(
    store: FileStore, listings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change that is durable counts before its document is in place, as in a listing."""
    reader = FileStore(store.path, durable=False)
    settle(reader)
    counts: list[int] = []

    class Stopped(DocumentWrite):
        def publish(self, disk: Disk, layout: Layout) -> None:
            counts.extend([reader.count(), len(reader.find_all())])
            super().publish(disk, layout)

    monkeypatch.setattr("waggle_fsstore.store.write.batch.DocumentWrite", Stopped)
    monkeypatch.setattr("waggle_fsstore.store.read.view._PUBLISH_TIMEOUT_S", 0)
    store.save(make_environment(id="d"))
    assert [*counts, reader.count()] == [4, 4, 4]
    assert listings


def test_stores_exchanged_during_listing_are_told_apart(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names of a store that was there for a moment are not taken for those of this one."""
    away, spare = store.path.with_name("away"), store.path.with_name("spare")
    shutil.copytree(store.path, away)
    (away / "environments" / "a.json").unlink()
    real = DocumentCache.names

    def exchange() -> None:
        store.path.rename(spare)
        away.rename(store.path)
        spare.rename(away)

    def names(self: DocumentCache, *opened: int) -> list[str]:
        exchange()
        try:
            return real(self, *opened)
        finally:
            exchange()

    with monkeypatch.context() as patch:
        patch.setattr(DocumentCache, "names", names)
        settle(store)
    assert store.count() == 3


def test_names_added_within_one_tick_are_counted(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory whose time a later change may share is listed each time."""
    settle(store)
    os.utime(documents_dir(store))
    now = documents_dir(store).stat().st_ctime_ns
    monkeypatch.setattr("waggle_fsstore.store.read.document_cache.file_clock", lambda: now)
    store.count()
    assert store._view._listed[0] is None
