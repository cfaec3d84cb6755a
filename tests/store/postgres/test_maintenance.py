# SPDX-License-Identifier: Apache-2.0
"""Check, repair, snapshot, restore, prune and info of a store in PostgreSQL."""

import math
import os
from pathlib import Path

import pytest

pytest.importorskip("psycopg", reason="needs the extra 'postgres'")

import psycopg

from tests.store.postgres.servers import Server
from waggle_fsstore import (
    CorruptDocumentError,
    EnvironmentNotFoundError,
    FileStore,
    HistoryPrunedError,
    Severity,
    StoreUnavailableError,
    UnsupportedFormatError,
)
from waggle_fsstore.domain.retention import parse_retention
from waggle_fsstore.server.history import history_of
from waggle_fsstore.store.postgres import schema
from waggle_fsstore.store.postgres.store import PostgresStore
from waggle_fsstore.testing import make_environment

_CORRUPT = "UPDATE waggle.document SET document = '{\"id\": 1}' WHERE id = 'a'"
_EDIT = (
    "UPDATE waggle.document SET document = replace(document::text, 'before', 'after')::json "
    "WHERE id = 'a'"
)
_PUT_BACK = (
    "INSERT INTO waggle.document SELECT id, 1, 'creating', NULL, document "
    "FROM waggle.change WHERE seq = 1"
)


@pytest.fixture
def two(repository: PostgresStore) -> PostgresStore:
    """Return a store with the environments a and b."""
    for name in "ab":
        repository.save(make_environment(id=name, name="before"))
    return repository


def problems(store: PostgresStore) -> list[tuple[str, str]]:
    """Return the severity and the problem of each finding."""
    return [(found.severity, found.problem) for found in store.check()]


def test_whole_store_has_no_findings(two: PostgresStore) -> None:
    """A check finds nothing in a store that only programs have changed, nor in none."""
    two.delete("b")
    two.save(make_environment(id="a", extra={"text": "\0"}))
    assert problems(two) == []
    assert list(two.repair()) == []
    assert two.count() == 1


def test_missing_store_has_no_findings(repository: PostgresStore) -> None:
    """A check of a store that does not exist yet finds nothing, and makes none."""
    assert problems(repository) == []
    assert repository.info().documents == 0


@pytest.mark.parametrize(
    ("damage", "severity", "problem", "done", "name"),
    [
        (_CORRUPT, Severity.ERROR, "created_at", "restored revision 1", "before"),
        (
            "DELETE FROM waggle.document WHERE id = 'a'",
            Severity.ERROR,
            "is missing, but the history has revision 1",
            "restored revision 1",
            "before",
        ),
        (_EDIT, Severity.WARNING, "was edited manually", "recorded in the history", "after"),
    ],
)
def test_damaged_document_is_found_and_repaired(
    two: PostgresStore,
    server: Server,
    damage: str,
    severity: Severity,
    problem: str,
    done: str,
    name: str,
) -> None:
    """A check names the document; a repair stores its last version, or records the edit."""
    server.execute(damage)
    [(found, text)] = problems(two)
    assert (found, problem in text) == (severity, True)
    [repaired] = two.repair()
    assert repaired.is_repaired
    assert done in repaired.remedy
    assert repaired.path.name == "a.json"
    assert problems(two) == []
    assert two.find_by_id("a").name == name
    *_, last = two.history("a")
    assert last.reason.startswith("fsck: ")
    assert two.find_by_id("b").revision == 2


def test_document_that_was_put_back_is_recorded(two: PostgresStore, server: Server) -> None:
    """A deleted document that an operator puts back is found, kept, and recorded."""
    two.delete("a")
    server.execute(_PUT_BACK)
    assert problems(two) == [("warning", "exists, but change 3 deleted it")]
    assert [found.is_repaired for found in two.repair()] == [True]
    assert [event.kind for event in two.history("a")] == ["created", "deleted", "external"]


def test_corrupt_document_without_version_is_deleted(two: PostgresStore, server: Server) -> None:
    """Where the history has no version of a corrupt document, it is deleted; its text is kept."""
    two.delete("a")
    server.execute(_PUT_BACK, _CORRUPT)
    [found] = two.repair()
    assert found.remedy == "deleted; the history keeps its text"
    assert two.count() == 1
    with psycopg.connect(server.url) as connection:
        query = b"SELECT document::text FROM waggle.change ORDER BY seq DESC LIMIT 1"
        assert connection.execute(query).fetchone() == ('{"id": 1}',)


def test_history_without_its_end_is_an_error(two: PostgresStore, server: Server) -> None:
    """A check says which changes are missing where the table does not reach to the last one."""
    server.execute("DELETE FROM waggle.change WHERE seq = 2")
    [first, *_] = problems(two)
    assert first == ("error", "has 1 of the changes 1 to 2, and lacks some")
    two.save(make_environment(id="a"))
    [first, *_] = problems(two)
    assert first == ("error", "has 2 of the changes 1 to 3, and lacks some")


def test_era_that_skips_numbers_is_whole(two: PostgresStore, server: Server) -> None:
    """The numbers that a failover skips are not missed, also where history was pruned."""
    two.prune_history(keep_days=0)
    server.execute("UPDATE waggle.store SET era = 'that of the server before'")
    assert two.save(make_environment(id="a")) == schema.ERA_GAP + 3
    assert problems(two) == []


def test_snapshot_is_a_store_in_files(two: PostgresStore, tmp_path: Path) -> None:
    """A snapshot has each document byte for byte, opens as a FileStore, and can be restored."""
    made = two.snapshot(tmp_path / "copy")
    assert (made.seq, made.count) == (2, 2)
    with FileStore(made.path, durable=False) as files:
        assert files.find_all() == two.find_all()
        assert [one.revision for one in files.find_all()] == [1, 2]
        assert not any(found.severity is Severity.ERROR for found in files.check())
    two.delete("a")
    two.save(make_environment(id="b", name="changed"))
    two.save(make_environment(id="c"))
    restored = two.restore(made.path)
    assert (restored.created, restored.updated, restored.deleted) == (1, 1, 1)
    assert {one.id: one.name for one in two.find_all()} == {"a": "before", "b": "before"}
    again = two.restore(made.path)
    assert (again.unchanged, again.created, again.updated, again.deleted) == (2, 0, 0, 0)
    assert {event.reason for event in two.history(after=5)} == {f"restored from {made.path}"}


def test_snapshot_reports_corrupt_documents(
    two: PostgresStore, server: Server, tmp_path: Path
) -> None:
    """A corrupt document is reported and left out, or ends the snapshot without a trace."""
    server.execute(_CORRUPT)
    errors: list[Exception] = []
    assert two.snapshot(tmp_path / "copy", on_corrupt=errors.append).count == 1
    assert len(errors) == 1
    with pytest.raises(CorruptDocumentError):
        two.snapshot(tmp_path / "other")
    assert not (tmp_path / "other").exists()
    assert two.restore(tmp_path / "copy").deleted == 1


def test_refused_restore_changes_nothing(
    two: PostgresStore, server: Server, tmp_path: Path
) -> None:
    """A newer document in the store refuses the whole restore, not only its own part."""
    source = two.snapshot(tmp_path / "copy").path
    two.save(make_environment(id="a", name="later"))
    server.execute(
        "UPDATE waggle.document SET document = "
        "replace(document::text, '\"schema\": 1', '\"schema\": 99')::json "
        "WHERE id = 'b'"
    )
    with pytest.raises(UnsupportedFormatError):
        two.restore(source)
    assert two.find_by_id("a").name == "later"
    assert [event.seq for event in two.history()] == [1, 2, 3]
    assert two.save(make_environment(id="a")) == 4


def test_revision_is_restored(two: PostgresStore, server: Server) -> None:
    """An earlier version becomes the new one, also of a deleted or corrupt document."""
    two.save(make_environment(id="a", name="later"))
    restored = two.restore_revision("a", 1)
    assert (restored.name, restored.revision) == ("before", 4)
    server.execute(_CORRUPT)
    assert two.restore_revision("a", 1).name == two.find_by_id("a").name == "before"
    two.delete("b")
    assert two.restore_revision("b", 2).id == "b"
    for environment_id, revision in (("a", 2), ("a", 99), ("a", 0), ("", 1), ("a", 1 << 70)):
        with pytest.raises(EnvironmentNotFoundError):
            two.restore_revision(environment_id, revision)


def test_old_history_is_pruned(two: PostgresStore, server: Server) -> None:
    """Changes before the first young one are removed; a reader of them is told."""
    cursor = next(two.history()).cursor
    server.execute("UPDATE waggle.change SET at = at - interval '3 days' WHERE seq = 1")
    pruned = two.prune_history(keep_days=2)
    assert (pruned.changes_removed, pruned.oldest) == (1, 2)
    assert [event.seq for event in two.history(after=1)] == [2]
    assert [event.seq for event in two.history(after=cursor)] == [2]
    assert [event.seq for event in two.history()] == [2]
    with pytest.raises(HistoryPrunedError):
        two.restore_revision("a", 1)
    assert problems(two) == []
    assert two.prune_history(keep_days=2).changes_removed == 0
    assert two.prune_history(keep_days=0) == type(pruned)(1, 3)
    with pytest.raises(HistoryPrunedError):
        two.history(after=1)
    assert two.save(make_environment(id="a")) == 3
    assert problems(two) == []
    for days in (-1, math.inf, math.nan):
        with pytest.raises(ValueError, match="keep_days"):
            two.prune_history(keep_days=days)


def test_server_says_how_old_the_history_is(
    two: PostgresStore, caplog: pytest.LogCaptureFixture
) -> None:
    """A server removes nothing in a database: it says since when there is a history, and why."""
    history = history_of(two)
    assert history is not None
    facts = history.limit(parse_retention("1d"), None)
    first = next(two.history())
    assert (facts["oldest"], facts["since"]) == (1, str(first.at))
    assert "the owner of the tables limits this history" in caplog.text
    assert two.info().oldest_seq == 1


def test_store_is_told_in_figures(two: PostgresStore) -> None:
    """Info has the sizes, the ends of the history, and how a change survives."""
    info = two.info()
    assert (info.documents, info.last_seq, info.oldest_seq, info.standbys) == (2, 2, 1, 0)
    assert info.document_bytes > 0
    assert info.oldest_at is not None
    assert info.durability.startswith("The settings of the server were not checked")
    with PostgresStore(two._url) as durable:
        assert "no standby is waited for" in durable.info().durability


def test_script_makes_store_for_restricted_roles(server: Server) -> None:
    """A role with the rights of the script writes, and can change no history nor make tables."""
    # Roles belong to the server, which other tests use too.
    writer, auditor = (f"{role}_{os.getpid()}" for role in ("writer", "auditor"))
    script = schema.SCRIPT.replace("waggle_writer", writer).replace("waggle_auditor", auditor)
    starts = ("--   GRANT", "--   CREATE ROLE")
    grants = [line[5:] for line in script.splitlines() if line.startswith(starts)]
    server.execute(script, *grants)
    with PostgresStore(server.url.replace("waggle@", f"{writer}@"), durable=False) as store:
        assert store.save(make_environment(id="a")) == 1
        assert store.save(make_environment(id="a")) == 2
        store.delete("a")
        assert problems(store) == []
        with pytest.raises(StoreUnavailableError, match=r"permission denied .*\(42501\)"):
            store.prune_history(keep_days=0)
        assert len(list(store.history())) == 3
        with psycopg.connect(server.url.replace("waggle@", f"{auditor}@")) as connection:
            rows = connection.execute(b"SELECT seq, kind, id FROM waggle.audit").fetchall()
            assert rows == [(1, "created", "a"), (2, "updated", "a"), (3, "deleted", "a")]
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(b"SELECT FROM waggle.document")
        server.execute("DROP SCHEMA waggle CASCADE")
        with pytest.raises(StoreUnavailableError, match="permission denied"):
            store.save(make_environment(id="a"))
    server.execute(*(f"DROP OWNED BY {role}; DROP ROLE {role}" for role in (writer, auditor)))
