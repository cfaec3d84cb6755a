# SPDX-License-Identifier: Apache-2.0
"""A copy with its history from files to PostgreSQL and back."""

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("psycopg", reason="needs the extra 'postgres'")

from tests.store.maintenance.test_copy import INVALID, files, source, story, with_invalid
from waggle_fsstore import CorruptDocumentError, FileStore, StoreError
from waggle_fsstore.store.maintenance.copy import copy
from waggle_fsstore.store.postgres.store import PostgresStore
from waggle_fsstore.testing import make_environment

__all__ = ["source"]


@pytest.fixture
def back(tmp_path: Path) -> Iterator[FileStore]:
    with FileStore(tmp_path / "back", durable=False) as store:
        yield store


def test_copy_to_postgresql_and_back_is_equal(
    source: FileStore, repository: PostgresStore, back: FileStore
) -> None:
    """Both copies have the documents, to the byte, and the history of the source."""
    to = copy(source, repository)
    assert (to.changes, to.documents) == (9, 4)
    assert story(repository) == story(source)
    assert list(repository.check()) == []
    there = copy(repository, back)
    assert (there.digest, there.changes) == (to.digest, 9)
    assert (files(back), story(back)) == (files(source), story(source))
    assert list(back.check()) == []
    assert repository.save(make_environment(id="new")) == 10


def test_copy_is_continued_after_new_changes(
    source: FileStore, repository: PostgresStore, back: FileStore
) -> None:
    """Only what is missing is copied, also a change of a second database."""
    copy(source, repository)
    source.save(make_environment(id="late"))
    assert copy(source, repository).changes == 1
    copy(repository, back)
    repository.delete("late")
    assert copy(repository, back).changes == 1
    assert story(back) == story(repository)


def test_database_with_other_changes_is_no_target(
    source: FileStore, repository: PostgresStore
) -> None:
    """It keeps all that it has."""
    repository.save(make_environment(id="own"))
    with pytest.raises(StoreError, match="neither empty nor an earlier copy"):
        copy(source, repository)
    with pytest.raises(StoreError, match="already"):
        repository.import_changes(list(source.export_changes(0)))
    assert [one.id for one in repository.find_all()] == ["own"]


@pytest.mark.parametrize("kind", INVALID)
def test_invalid_document_of_a_change_is_refused(
    source: FileStore, repository: PostgresStore, kind: str
) -> None:
    """Nothing of its batch is stored."""
    with pytest.raises(CorruptDocumentError):
        repository.import_changes(with_invalid(source, kind))
    assert (repository.count(), repository.last_change()) == (0, 0)
