# SPDX-License-Identifier: Apache-2.0
"""find_by_id, which opens a document only if it may have changed."""

import os
from collections.abc import Callable, Iterator

import pytest

from tests.store.read.cache.listings import by_signature, list_all, opened_documents, settle
from tests.store.read.cache.manual_edits import EDITS, edited, rewrite
from waggle_fsstore import Environment, FileStore, WaggleError
from waggle_fsstore.store.read import documents
from waggle_fsstore.testing import make_environment
from waggle_fsstore.testing.repository import spoil

pytestmark = [
    pytest.mark.usefixtures("trusted_change_times", "cached_from_next_tick"),
    by_signature,
]


def find(store: FileStore) -> tuple[Environment, int] | str:
    """Return document b with its revision, or its error."""
    try:
        found = store.find_by_id("b")
    except (WaggleError, OSError) as error:
        return f"{type(error)} {error}"
    return found, found.revision


# What makes a store object remember document b.
WARM: dict[str, Callable[[FileStore], object]] = {
    "found": lambda store: (find(store), find(store)),
    "listed": list_all,
}


@pytest.fixture(params=WARM)
def reader(store: FileStore, request: pytest.FixtureRequest) -> Iterator[FileStore]:
    """A store object that remembers document b."""
    settle(store)
    with FileStore(store.path, durable=False) as reader:
        WARM[request.param](reader)
        yield reader


def test_unchanged_document_is_not_opened(
    reader: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A document that was found twice, or listed, is not opened again."""
    opened = opened_documents(monkeypatch)
    assert [reader.find_by_id("b").name for _ in range(3)] == ["before"] * 3
    assert opened == []


@pytest.mark.parametrize("edit", EDITS)
def test_manual_edit_is_found(reader: FileStore, edit: str) -> None:
    """The next read shows any kind of manual edit, as a new store object shows it."""
    before = find(reader)
    EDITS[edit](reader.document_path("b"))
    after = find(reader)
    assert after == find(FileStore(reader.path, durable=False))
    is_root_reading = edit == "no longer readable" and os.geteuid() == 0
    assert (after == before) == is_root_reading


def test_changes_of_another_object_are_found(reader: FileStore, store: FileStore) -> None:
    """The next read shows a save or a delete by another store object."""
    for name in ("one", "two"):
        store.save(make_environment(id="b", name=name))
        assert reader.find_by_id("b").name == name
    store.delete("b")
    assert "EnvironmentNotFoundError" in str(find(reader))


def test_changes_by_callers_do_not_reach_what_is_found(reader: FileStore) -> None:
    """Changing what was found, including nested values, does not change what is found next."""
    expected = find(reader)
    for _ in range(2):
        spoil(reader.find_by_id("b"))
        assert find(reader) == expected


def test_document_with_two_names_is_opened(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A document that can be edited through another name is read each time."""
    path = store.document_path("b")
    os.link(path, store.path / "link")
    settle(store)
    reader = FileStore(store.path, durable=False)
    settle(reader)
    opened = opened_documents(monkeypatch)
    for _ in range(2):
        find(reader)
    assert opened == ["b.json", "b.json"]
    rewrite(store.path / "link", edited(path))
    assert reader.find_by_id("b").name == "after!"


def test_number_of_remembered_documents_is_bounded(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many documents are found, only so many stay in memory."""
    monkeypatch.setattr(documents, "_MAX_KNOWN_DOCUMENTS", 2)
    settle(store)
    reader = FileStore(store.path, durable=False)
    for _ in range(3):
        assert [reader.find_by_id(name).id for name in "abc"] == ["a", "b", "c"]
        assert len(reader._documents._known) <= 2
