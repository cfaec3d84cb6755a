# SPDX-License-Identifier: Apache-2.0
"""A copy of a whole store with its history: equal, continued, refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from waggle_fsstore import (
    CorruptDocumentError,
    EnvironmentNotFoundError,
    FileStore,
    HistoryPrunedError,
    Status,
    StoreError,
    TransactionalRepository,
    audit,
)
from waggle_fsstore.store.format import codec
from waggle_fsstore.store.maintenance import copy as module
from waggle_fsstore.store.maintenance.copy import copy
from waggle_fsstore.testing import make_environment


@pytest.fixture
def source(tmp_path: Path) -> Iterator[FileStore]:
    """A store with versions, a deleted environment, a manual edit, and authors."""
    with FileStore(tmp_path / "source", durable=False) as store:
        store.save_all([make_environment(id=name) for name in ("a", "b", "c", "\u00e9 c%")])
        with audit(actor="maja", reason="ready"):
            store.update("a", lambda one: setattr(one, "status", Status.ERROR))
        store.delete("b")
        path = store.document_path("c")
        path.write_text(path.read_text().replace('"name": "', '"name": "edited '))
        store.update("c", lambda one: one.labels.update(x="y"))
        store.save(make_environment(id="b", name="again"))
        yield store


@pytest.fixture
def target(tmp_path: Path) -> Iterator[FileStore]:
    with FileStore(tmp_path / "target", durable=False) as store:
        yield store


def story(store: TransactionalRepository) -> list[tuple[Any, ...]]:
    """Return all events of a store, without what is only valid there."""
    return [
        (one.seq, one.at, one.kind, one.environment_id, one.actor, one.reason, one.environment)
        for one in store.history()
    ]


def files(store: FileStore) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (store.path / "environments").iterdir()}


def test_copy_has_the_same_documents_and_history(source: FileStore, target: FileStore) -> None:
    """Numbers, times, actors, reasons, versions and bytes are those of the source."""
    copied = copy(source, target)
    assert (copied.changes, copied.documents) == (9, 4)
    assert files(target) == files(source)
    assert story(target) == story(source)
    assert list(target.check()) == []
    assert target.save(make_environment(id="new")) == 10


def test_history_of_a_copy_repairs_it(source: FileStore, target: FileStore) -> None:
    """Its journal alone brings all documents back, as that of any store does."""
    copy(source, target)
    for path in (target.path / "environments").iterdir():
        path.unlink()
    list(target.repair())
    assert target.find_all() == source.find_all()


def test_copy_is_continued(
    source: FileStore, target: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an interruption, and after new changes, only what is missing is copied."""
    monkeypatch.setattr(module, "_BATCH_CHANGES", 2)
    real = FileStore.import_changes
    batches: list[int] = []

    def interrupt(self: FileStore, changes: list[Any]) -> None:
        if len(batches) == 2:
            raise KeyboardInterrupt
        batches.append(len(changes))
        real(self, changes)

    with monkeypatch.context() as patch:
        patch.setattr(FileStore, "import_changes", interrupt)
        with pytest.raises(KeyboardInterrupt):
            copy(source, target)
    assert story(target) == story(source)[:4]
    assert copy(source, target).changes == 5
    source.delete("a")
    assert copy(source, target).changes == 1
    assert (story(target), files(target)) == (story(source), files(source))
    assert copy(source, target).changes == 0


def test_changes_during_a_copy_are_copied(
    source: FileStore, target: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program may use the source in the meantime."""
    real, left = FileStore.import_changes, [1, 2]

    def import_and_change(self: FileStore, changes: list[Any]) -> None:
        real(self, changes)
        if left:
            source.save(make_environment(id=f"late-{left.pop()}"))

    monkeypatch.setattr(FileStore, "import_changes", import_and_change)
    assert copy(source, target).documents == 6
    assert story(target) == story(source)


def test_store_with_other_changes_is_no_target(source: FileStore, target: FileStore) -> None:
    """It keeps all that it has."""
    target.save(make_environment(id="own"))
    before = files(target)
    with pytest.raises(StoreError, match="neither empty nor an earlier copy"):
        copy(source, target)
    assert files(target) == before


def test_target_that_is_ahead_is_refused(source: FileStore, target: FileStore) -> None:
    """Changes that were made in the copy are not mixed with those of the source."""
    copy(source, target)
    target.save(make_environment(id="own"))
    with pytest.raises(StoreError, match="neither empty nor an earlier copy"):
        copy(source, target)
    source.save(make_environment(id="other"))
    with pytest.raises(StoreError, match="neither empty nor an earlier copy"):
        copy(source, target)


def test_pruned_history_is_refused(tmp_path: Path, target: FileStore) -> None:
    """Without its beginning, a history has no documents to begin with."""
    with FileStore(tmp_path / "long") as source:
        for number in range(30):
            source.save(make_environment(id="a", name=f"{number}", extra={"pad": "x" * 20_000}))
        source.prune_history(keep_bytes=0)
        with pytest.raises(HistoryPrunedError):
            copy(source, target)
    with pytest.raises(EnvironmentNotFoundError):
        target.find_by_id("a")


def test_manual_edit_that_is_not_recorded_is_told(source: FileStore, target: FileStore) -> None:
    """The documents are compared, and the copy can be continued once the edit is recorded."""
    path = source.document_path("a")
    path.write_text(path.read_text().replace('"name": "', '"name": "by hand '))
    with pytest.raises(StoreError, match="fsck --repair"):
        copy(source, target)
    list(source.repair())
    assert copy(source, target).changes == 1
    assert files(target) == files(source)


INVALID: dict[str, dict[str, Any]] = {
    "value": {"runtime": "ruby"},
    "checksum": {"name": "edited"},
    "id": {"id": "other"},
    "revision": {"revision": 7},
}


def with_invalid(source: FileStore, kind: str) -> list[dict[str, Any]]:
    """Return the changes of a store, the third one with an invalid document."""
    changes = list(source.export_changes(0))
    document = {**changes[2]["document"], **INVALID[kind]}
    if kind in ("id", "revision"):
        del document["checksum"]
        document["checksum"] = codec._checksum(document)
    changes[2] = {**changes[2], "document": document}
    return changes


@pytest.mark.parametrize("kind", INVALID)
def test_invalid_document_of_a_change_is_refused(
    source: FileStore, target: FileStore, kind: str
) -> None:
    """Nothing of its batch is stored."""
    with pytest.raises(CorruptDocumentError):
        target.import_changes(with_invalid(source, kind))
    assert (target.count(), target.last_change()) == (0, 0)


def test_change_that_is_there_is_refused(source: FileStore, target: FileStore) -> None:
    """Numbers only rise."""
    changes = list(source.export_changes(0))
    target.import_changes(changes[:2])
    for again in (changes[:1], changes[1:3]):
        with pytest.raises(StoreError, match="already"):
            target.import_changes(again)
    assert target.last_change() == 2
