# SPDX-License-Identifier: Apache-2.0
"""What a server refuses: a typed error in time, which says what to do, and nothing half done."""

import inspect
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("psycopg", reason="needs the extra 'postgres'")

import psycopg

from tests.store.postgres.servers import Server
from waggle_fsstore import StoreUnavailableError
from waggle_fsstore.store.postgres import connections, schema
from waggle_fsstore.store.postgres.connections import Deadline
from waggle_fsstore.store.postgres.store import PostgresStore
from waggle_fsstore.testing import make_environment


def refused(store: PostgresStore) -> str:
    """Return the message of the error of a save, which may not take long."""
    with pytest.raises(StoreUnavailableError) as caught:
        store.save(make_environment(id="refused"))
    return str(caught.value)


@contextmanager
def failing(server: Server, code: str, times: int = 1 << 30) -> Iterator[None]:
    """Let the server answer the next inserts of changes with an error code."""
    server.execute(
        "CREATE SEQUENCE waggle.failures",
        f"""
        CREATE FUNCTION waggle.fail() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF nextval('waggle.failures') <= {times} THEN
                RAISE EXCEPTION 'injected' USING ERRCODE = '{code}';
            END IF;
            RETURN NEW;
        END $$
        """,
        "CREATE TRIGGER fail BEFORE INSERT ON waggle.change FOR EACH ROW "
        "EXECUTE FUNCTION waggle.fail()",
    )
    try:
        yield
    finally:
        server.execute("DROP TRIGGER fail ON waggle.change", "DROP SEQUENCE waggle.failures")


@pytest.mark.parametrize(
    "code",
    ["40P01", "40001", "08P01"],
    ids=["deadlock", "serialization failure", "server lost by a pooler"],
)
def test_refused_transaction_is_repeated(
    repository: PostgresStore, server: Server, code: str
) -> None:
    """What another attempt can mend costs time, and the change is made once."""
    repository.save(make_environment(id="a"))
    with failing(server, code, times=3):
        assert repository.save(make_environment(id="b")) == 2
    assert [event.seq for event in repository.history()] == [1, 2]


def test_deadlock_that_stays_is_an_error(repository: PostgresStore, server: Server) -> None:
    """It is told at the deadline, and nothing is stored."""
    repository.save(make_environment(id="a"))
    with (
        failing(server, "40P01"),
        PostgresStore(server.url, durable=False, timeout=0.3) as store,
    ):
        assert "(40P01)" in refused(store)
    assert repository.count() == 1


def test_answer_of_server_is_told_after_silence(repository: PostgresStore) -> None:
    """At the deadline, a refusal tells more than that the last attempt had no answer."""
    used = repository._connections
    answers = iter(
        [psycopg.errors.DeadlockDetected("deadlock"), psycopg.OperationalError("silence")]
    )

    def call() -> None:
        raise next(answers, psycopg.OperationalError("silence"))

    with pytest.raises(StoreUnavailableError, match="deadlock"):
        used.retry(Deadline(0.05), call)


def test_full_disk_of_server_is_told(repository: PostgresStore, server: Server) -> None:
    """A save and a batch are refused as a whole, and work again once there is room."""
    repository.save(make_environment(id="a"))
    with failing(server, "53100"):
        assert "free space on the server" in refused(repository)
        with pytest.raises(StoreUnavailableError):
            repository.save_all([make_environment(id="b"), make_environment(id="c")])
        assert repository.count() == 1
    assert repository.save(make_environment(id="b")) == 2


@pytest.fixture
def role(server: Server, repository: PostgresStore) -> Iterator[str]:
    """A role with the rights of a writer, and a name of its own."""
    repository.save(make_environment(id="a"))
    database = server.url.split("/")[3].partition("?")[0]
    name = f"role_{database}"
    server.execute(
        f"CREATE ROLE {name} LOGIN PASSWORD 'right'",
        f"GRANT USAGE ON SCHEMA waggle TO {name}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA waggle TO {name}",
    )
    yield name
    server.execute(f"DROP OWNED BY {name}", f"DROP ROLE {name}")


def as_role(server: Server, role: str, password: str = "") -> PostgresStore:
    """Open the store as a role."""
    secret = f":{password}" if password else ""
    url = server.url.replace("//waggle@", f"//{role}{secret}@")
    return PostgresStore(url, durable=False, timeout=1)


def test_missing_right_is_told(server: Server, role: str) -> None:
    """A role that may only read can read, and is told what a writer needs."""
    server.execute(f"REVOKE INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA waggle FROM {role}")
    with as_role(server, role) as store:
        assert "grant this role the rights of a writer" in refused(store)
        assert store.count() == 1


def test_used_up_connections_are_told(server: Server, role: str) -> None:
    """They are waited for up to the deadline."""
    server.execute(f"ALTER ROLE {role} CONNECTION LIMIT 1")
    url = server.url.replace("//waggle@", f"//{role}@")
    with psycopg.connect(url), as_role(server, role) as store:
        assert "allow more connections" in refused(store)
    with as_role(server, role) as store:
        assert store.count() == 1


def test_wrong_password_is_told_without_it(server: Server, role: str) -> None:
    """The error names neither the password nor the user."""
    rules = server.directory / "data" / "pg_hba.conf"
    before = rules.read_text()
    rules.write_text(f"local all {role} scram-sha-256\n{before}")
    try:
        server.execute("SELECT pg_reload_conf()")
        with as_role(server, role, "right") as store:
            assert store.count() == 1
        with as_role(server, role, "wrong-secret") as store:
            message = refused(store)
    finally:
        rules.write_text(before)
        server.execute("SELECT pg_reload_conf()")
    assert "check the user and the password" in message
    assert "wrong-secret" not in message
    assert role not in message


def test_missing_role_is_told_without_its_name(server: Server) -> None:
    """The advice is about the role, and not about a database that does not exist."""
    with as_role(server, "nobody_known") as store:
        message = refused(store)
    assert "check the user, and the rules" in message
    assert "nobody_known" not in message


def test_abandoned_generator_of_psycopg_is_ended() -> None:
    """It waits for the server while it is closed, and would be reported as an ignored error."""

    def waiting() -> Generator[None, None, None]:
        try:
            try:
                yield
            finally:
                yield
        finally:
            yield

    left = waiting()
    next(left)
    connections._end(left)
    assert inspect.getgeneratorstate(left) == inspect.GEN_CLOSED


def test_statement_timeout_of_role_is_told(server: Server, role: str) -> None:
    """A role whose statements are cut short is told which setting does that."""
    server.execute(f"ALTER ROLE {role} SET statement_timeout = '50ms'")
    with psycopg.connect(server.url) as other, as_role(server, role) as store:
        other.execute("LOCK TABLE waggle.document IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(StoreUnavailableError, match="statement_timeout"):
            store.count()


def test_session_that_was_idle_too_long_is_replaced(server: Server, role: str) -> None:
    """A role whose idle sessions are ended can read and write after any pause."""
    server.execute(f"ALTER ROLE {role} SET idle_session_timeout = '20ms'")
    is_there = f"SELECT max(pid) FROM pg_stat_activity WHERE usename = '{role}'"  # noqa: S608
    calls: list[Callable[[PostgresStore], object]] = [
        PostgresStore.count,
        lambda store: store.save(make_environment(id="a")),
    ]
    for call in calls:
        with as_role(server, role) as store:
            store.count()
            while server.ask(is_there):
                time.sleep(0.01)
            call(store)


def test_defaults_of_role_stop_no_writer(server: Server, role: str) -> None:
    """Tables are made, and hosts are heard of, where transactions only read by default."""
    server.execute(
        "DROP SCHEMA waggle CASCADE",
        f"ALTER ROLE {role} SET default_transaction_read_only = on",
        f"ALTER ROLE {role} SET default_transaction_isolation = 'repeatable read'",
    )
    saved: list[object] = []

    def save() -> None:
        try:
            saved.append(store.save(make_environment(id="a")))
        except StoreUnavailableError as error:
            saved.append(error)

    thread = threading.Thread(target=save)
    with psycopg.connect(server.url) as founder, as_role(server, role) as store:
        founder.execute(schema.LOCK_FOUNDING.encode())
        thread.start()
        while not server.ask("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            time.sleep(0.01)
        founder.execute(f"{schema.TABLES}; GRANT USAGE ON SCHEMA waggle TO {role}".encode())
        founder.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA waggle TO {role}".encode())
        founder.commit()
        thread.join()
        assert saved == [1]
        store.hosts.register("1", "maja", "", "boot")
        store.hosts.beat("1", "boot")


def test_lost_machine_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that vanishes closes no connection: the network says so, unless the URL sets more."""
    given: list[Any] = []

    def connect(text: str, **_: object) -> None:
        given.append(psycopg.conninfo.conninfo_to_dict(text))
        raise psycopg.OperationalError("connection refused")

    monkeypatch.setattr(connections.Connection, "connect", connect)
    for options in ("", "?tcp_user_timeout=9000"):
        with PostgresStore(f"postgresql://127.0.0.1/db{options}", timeout=0.01) as store:
            refused(store)
    assert given[0]["keepalives_idle"] == "5"
    assert [given[0]["tcp_user_timeout"], given[-1]["tcp_user_timeout"]] == ["5000", "9000"]


def test_refused_tls_is_told() -> None:
    """A server without TLS is named, and how to go on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            while True:
                try:
                    accepted, _ = listener.accept()
                except OSError:
                    return
                with accepted:
                    accepted.recv(8)
                    accepted.sendall(b"N")  # The answer to a request for TLS.

        thread = threading.Thread(target=refuse, daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        url = f"postgresql://127.0.0.1:{port}/db?sslmode=require"
        with PostgresStore(url, timeout=0.3) as store:
            assert "enable TLS on the server" in refused(store)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
