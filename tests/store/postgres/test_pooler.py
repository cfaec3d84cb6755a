# SPDX-License-Identifier: Apache-2.0
"""The contracts, run through PgBouncer, which gives each transaction another session."""

import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

pytest.importorskip("psycopg", reason="needs the extra 'postgres'")

import psycopg

from tests.store.postgres.servers import Server, as_unprivileged, make_accessible
from waggle_fsstore.store.postgres.store import PostgresStore
from waggle_fsstore.testing import HistoryContract, TransactionalContract, make_environment

_PROGRAM = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin")
_PORT = 6432
_SETTINGS = """\
[databases]
* = host={server} user=waggle
[pgbouncer]
pool_mode = transaction
auth_type = any
unix_socket_dir = {directory}
listen_port = {port}
max_client_conn = 200
default_pool_size = 4
"""


@pytest.fixture(scope="module")
def pooler(running_server: Server) -> Iterator[Server]:
    """Return the database of these tests behind a pooler with four sessions."""
    if _PROGRAM is None:
        pytest.skip("pgbouncer is not installed")
    directory = Path(tempfile.mkdtemp(prefix="waggle-pool-"))
    make_accessible(directory)
    settings = {"server": running_server.directory, "directory": directory, "port": _PORT}
    (directory / "settings").write_text(_SETTINGS.format(**settings))
    make_accessible(directory / "settings")
    log = directory / "log"
    process = as_unprivileged(Path(_PROGRAM), str(directory / "settings"), log=log)
    server = Server(directory, f"{running_server.database}?port={_PORT}")
    try:
        for _ in range(1_000):
            with suppress(psycopg.OperationalError):
                server.execute("SELECT 1")
                break
            assert process.poll() is None, log.read_text()
            time.sleep(0.02)
        yield server
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(directory)


@pytest.fixture
def server(pooler: Server) -> Server:
    """The pooler, without a store behind it."""
    pooler.execute("DROP SCHEMA IF EXISTS waggle CASCADE")
    return pooler


class TestPooledStore(HistoryContract, TransactionalContract):
    pass


def test_threads_share_sessions(server: Server) -> None:
    """More clients than sessions write and read at once; no statement meets another session."""
    stores = [PostgresStore(server.url, durable=False) for _ in range(8)]
    errors: list[Exception] = []

    def work(store: PostgresStore, name: str) -> None:
        try:
            for number in range(1, 21):
                store.save(make_environment(id=name, idempotency=None, name=f"{number}"))
                assert store.find_by_id(name).name == f"{number}"
        except Exception as error:  # noqa: BLE001  # The test looks at it.
            errors.append(error)

    threads = [
        threading.Thread(target=work, args=[store, f"e{number}"])
        for number, store in enumerate(stores)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [event.seq for event in stores[0].history()] == list(range(1, 161))
    stores[0].hosts.register("1", "maja", "", "boot")
    stores[0].hosts.beat("1", "boot")
    for store in stores:
        store.close()


def test_statements_are_prepared_without_pooler_only(
    server: Server, running_server: Server
) -> None:
    """A prepared statement belongs to a session, which a pooler may give to another client."""
    for place, is_kept in ((server, False), (running_server, True)):
        with PostgresStore(place.url, durable=False) as store:
            for _ in range(5):
                store.save(make_environment(id="a"))
                store.find_by_id("a")
            query = b"SELECT statement FROM pg_prepared_statements WHERE statement LIKE '%waggle.%'"
            kept = [one.execute(query).fetchall() for one in store._connections._idle]
        assert any(kept) == is_kept, place.url


def test_settings_do_not_leak(server: Server) -> None:
    """A session that the store has used waits for the flush of others as before."""
    with PostgresStore(server.url, durable=False) as store:
        store.hosts.register("1", "maja", "", "boot")
        store.hosts.beat("1", "boot")
        store.save(make_environment())
    for setting in ("synchronous_commit", "lock_timeout", "statement_timeout"):
        with psycopg.connect(server.url, autocommit=True) as connection:
            found = connection.execute(f"SHOW {setting}".encode()).fetchone()
        assert found == ({"synchronous_commit": "on"}.get(setting, "0"),)
