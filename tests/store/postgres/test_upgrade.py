# SPDX-License-Identifier: Apache-2.0
"""Tables of an earlier format are upgraded, once, without a loss."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("psycopg", reason="needs the extra 'postgres'")

import psycopg

from tests.store.postgres.servers import Server
from waggle_fsstore import StoreUnavailableError
from waggle_fsstore.domain.environment import Status
from waggle_fsstore.store.format import codec
from waggle_fsstore.store.postgres import schema
from waggle_fsstore.store.postgres.connections import Deadline
from waggle_fsstore.store.postgres.store import PostgresStore
from waggle_fsstore.testing import make_environment

_FORMAT_1 = Path(__file__).with_name("format-1.sql").read_text()
_WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted"
_OP = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def old_server(server: Server) -> Server:
    """A server with a store of format 1, which has the running environment ``a``."""
    environment = make_environment(id="a", host_id=None, status=Status.RUNNING)
    document = codec.encode(environment, 1).decode()
    key = environment.idempotency.key if environment.idempotency else None
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(_FORMAT_1.encode())
        connection.execute(
            "INSERT INTO waggle.document VALUES ('a', 1, 'running', %s, %s)", (key, document)
        )
        connection.execute(
            "INSERT INTO waggle.change VALUES "
            "(1, now(), 'maja', '', 'created', 'a', 0, NULL, %s, %s)",
            (_OP, document),
        )
        connection.execute("UPDATE waggle.store SET last = 1")
    return server


def layout_of(server: Server) -> list[tuple[object, ...]]:
    """Return columns and indexes of all tables, without their order."""
    with psycopg.connect(server.url) as connection:
        columns = connection.execute(
            "SELECT table_name, column_name, data_type, collation_name, column_default, "
            "is_nullable FROM information_schema.columns WHERE table_schema = 'waggle'"
        ).fetchall()
        indexes = connection.execute(
            "SELECT indexname, indexdef, '' FROM pg_indexes WHERE schemaname = 'waggle'"
        ).fetchall()
        stored = connection.execute("SELECT format FROM waggle.store").fetchall()
    return sorted([*columns, *indexes, *stored], key=str)


@pytest.fixture
def as_program(old_server: Server) -> Iterator[Callable[[], PostgresStore]]:
    """Open the old store in a role that may write, and owns nothing."""
    role = f"program_{os.getpid()}"
    old_server.execute(
        f"CREATE ROLE {role} LOGIN",
        f"GRANT USAGE ON SCHEMA waggle TO {role}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA waggle TO {role}",
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA waggle GRANT ALL ON TABLES TO {role}",
    )
    stores: list[PostgresStore] = []

    def open_store() -> PostgresStore:
        url = old_server.url.replace("//waggle@", f"//{role}@")
        stores.append(PostgresStore(url, durable=False, timeout=5))
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()
    old_server.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_first_write_upgrades_tables(old_server: Server, repository: PostgresStore) -> None:
    """All is there as before, and the tables are those that a new store has."""
    assert repository.find_by_id("a").status is Status.RUNNING
    assert repository.hosts.find_all() == []
    assert repository.save(make_environment(id="b")) == 2
    assert [one.id for one in repository.find_all()] == ["a", "b"]
    assert [event.environment_id for event in repository.history()] == ["a", "b"]
    assert list(repository.check()) == []
    upgraded = layout_of(old_server)
    old_server.execute("DROP SCHEMA waggle CASCADE")
    repository.save(make_environment(id="b"))
    assert upgraded == layout_of(old_server)


@pytest.mark.usefixtures("old_server")
def test_upgrade_counts_what_is_live(repository: PostgresStore) -> None:
    """An environment from before takes room of those without a host."""
    with pytest.raises(Exception, match="limit of 1 live"):
        repository.create(make_environment(host_id=None, idempotency=None), capacity=1)
    repository.create(make_environment(host_id="1", idempotency=None), capacity=1)


@pytest.mark.usefixtures("old_server")
def test_tables_are_upgraded_once(open_store: Callable[[], PostgresStore]) -> None:
    """Programs that write at once upgrade them together, and lose nothing."""
    errors: list[Exception] = []

    def save(store: PostgresStore) -> None:
        try:
            store.save(make_environment())
        except Exception as error:  # noqa: BLE001  # The test looks at it.
            errors.append(error)

    threads = [threading.Thread(target=save, args=[open_store()]) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert open_store().count() == 7
    assert [event.seq for event in open_store().history()] == list(range(1, 8))


def test_upgrade_waits_for_writers_of_the_earlier_version(
    old_server: Server, repository: PostgresStore
) -> None:
    """A transaction that holds the lock of the store is committed first."""
    with psycopg.connect(old_server.url) as earlier:
        earlier.execute("SET lock_timeout = '300ms'")
        earlier.execute("SELECT last FROM waggle.store FOR NO KEY UPDATE")
        deadline = Deadline(30)
        thread = threading.Thread(target=repository._writer._upgrade, args=[deadline])
        thread.start()
        while not old_server.ask(_WAITING):
            time.sleep(0.01)
        earlier.execute("DELETE FROM waggle.document")
        earlier.execute("UPDATE waggle.store SET last = 5")
        earlier.commit()
        thread.join()
    assert repository.save(make_environment()) == 6
    assert repository.count() == 1


def test_owner_upgrades_for_role_that_may_not(
    old_server: Server, as_program: Callable[[], PostgresStore]
) -> None:
    """A program without the right says what to run; until then it reads, and changes nothing."""
    store = as_program()
    with pytest.raises(StoreUnavailableError, match=r"format 1.*'waggle-fsstore schema --from 1'"):
        store.save(make_environment())
    assert [one.id for one in store.find_all()] == ["a"]
    assert [event.seq for event in store.history()] == [1]
    old_server.execute(schema.upgrade_script(1))
    assert store.save(make_environment()) == 2
    store.hosts.register("1", "maja", "", "boot")


def test_script_upgrades_an_earlier_format_only() -> None:
    """A number that no store has had is a mistake."""
    for found in (0, schema.FORMAT, -1):
        with pytest.raises(ValueError, match=f"{found} is no earlier format"):
            schema.upgrade_script(found)


def test_mangled_tables_are_told(server: Server, repository: PostgresStore) -> None:
    """A column that an operator has dropped ends in an error, and not in a loop."""
    repository.save(make_environment())
    server.execute("ALTER TABLE waggle.document DROP COLUMN host_id")
    with pytest.raises(StoreUnavailableError, match="not those of any format"):
        repository.save(make_environment())
