# SPDX-License-Identifier: Apache-2.0
"""PostgresStore beyond the contract: doubt, lost changes, manual edits, refusals, secrets."""

import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("psycopg", reason="needs the extra 'postgres'")

import psycopg

from tests.store.postgres.servers import Server
from waggle_fsstore import (
    ConflictError,
    CorruptDocumentError,
    EnvironmentAlreadyExistsError,
    HistoryLostError,
    LockTimeoutError,
    OutcomeUnknownError,
    SettingError,
    StoreUnavailableError,
    UnsupportedFormatError,
    audit,
    open_repository,
)
from waggle_fsstore.domain.clock import monotonic
from waggle_fsstore.domain.event import EventFilter, EventKind
from waggle_fsstore.store.format import codec
from waggle_fsstore.store.postgres import connections, history, schema
from waggle_fsstore.store.postgres import writer as writer_module
from waggle_fsstore.store.postgres.connections import Connection, Deadline
from waggle_fsstore.store.postgres.schema import ERA_GAP
from waggle_fsstore.store.postgres.store import PostgresStore
from waggle_fsstore.store.postgres.transaction import Transaction
from waggle_fsstore.store.postgres.writer import Writer
from waggle_fsstore.testing import make_environment

Open = Callable[[], PostgresStore]


class Cut:
    """Loses the connection at the first COMMIT, before or after the server has got it."""

    def __init__(self, patch: pytest.MonkeyPatch, *, arrives: bool, then_unreachable: bool) -> None:
        self.cuts = 0
        execute, connect = Connection.execute, Connection.connect

        def cutting(connection: Connection, query: Any, *arguments: Any, **options: Any) -> Any:
            if self.cuts and then_unreachable:
                connection.close()
            if query != b"COMMIT" or self.cuts:
                return execute(connection, query, *arguments, **options)
            self.cuts += 1
            if arrives:
                with connection.pipeline():  # Its end sends what is queued.
                    execute(connection, query)
            connection.close()
            raise psycopg.OperationalError("server closed the connection unexpectedly")

        def connecting(*arguments: Any, **options: Any) -> Any:
            if self.cuts and then_unreachable:
                raise psycopg.OperationalError("Connection refused")
            return connect(*arguments, **options)

        patch.setattr(Connection, "execute", cutting)
        patch.setattr(Connection, "connect", connecting)


@pytest.mark.parametrize("arrives", [True, False])
def test_lost_commit_is_made_once(
    repository: PostgresStore, monkeypatch: pytest.MonkeyPatch, arrives: bool
) -> None:
    """A change whose COMMIT had no answer is there once, whether or not the server had got it."""
    repository.save(make_environment(id="a"))
    cut = Cut(monkeypatch, arrives=arrives, then_unreachable=False)
    assert repository.save(make_environment(id="a", ssh_port=7)) == 2
    assert cut.cuts == 1
    assert [event.seq for event in repository.history()] == [1, 2]
    assert repository.find_by_id("a").ssh_port == 7


def test_lost_commit_without_server_is_unknown(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no server says in time whether a change happened, the error says that it is unknown."""
    with PostgresStore(server.url, durable=False, timeout=0.3) as store:
        store.save(make_environment(id="a"))
        Cut(monkeypatch, arrives=True, then_unreachable=True)
        with pytest.raises(OutcomeUnknownError):
            store.save(make_environment(id="a"))


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM waggle.change; UPDATE waggle.store SET oldest = last + 1",
        "UPDATE waggle.store SET format = format + 1",
        "UPDATE waggle.store SET format = 1",
    ],
    ids=["pruned", "upgraded", "put back"],
)
def test_lost_commit_that_cannot_be_found_is_unknown(
    repository: PostgresStore, server: Server, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    """Where the history no longer says whether a change happened, it is not made again."""
    repository.save(make_environment(id="a"))
    Cut(monkeypatch, arrives=True, then_unreachable=False)
    happened = Writer._happened

    def look_later(writer: Writer, transaction: Transaction) -> bool:
        server.execute(statement)
        return happened(writer, transaction)

    monkeypatch.setattr(Writer, "_happened", look_later)
    with pytest.raises(OutcomeUnknownError):
        repository.save(make_environment(id="a"))
    assert server.ask("SELECT last FROM waggle.store") == 2


def test_ended_session_is_replaced(repository: PostgresStore, server: Server) -> None:
    """A session that the server ended is replaced, by a reader and by a writer."""
    end = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE pid <> pg_backend_pid() AND datname = current_database()"
    )
    repository.save(make_environment(id="a"))
    server.execute(end)
    assert repository.count() == 1
    server.execute(end)
    assert repository.save(make_environment(id="a")) == 2


def test_commit_waits_for_flush_whatever_database_says(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database in which COMMIT would not wait for the flush of the change is overridden."""
    seen: list[str] = []
    execute = Connection.execute

    def looking(connection: Connection, query: Any, *arguments: Any, **options: Any) -> Any:
        if query == b"COMMIT":
            seen.extend(execute(connection, b"SHOW synchronous_commit").fetchone() or ())
        return execute(connection, query, *arguments, **options)

    monkeypatch.setattr(Connection, "execute", looking)
    with psycopg.connect(server.url) as connection:
        database = connection.info.dbname
    try:
        for value in ("off", "local", "remote_apply"):
            server.execute(f"ALTER DATABASE {database} SET synchronous_commit = {value}")
            with PostgresStore(server.url, durable=False) as store:
                store.save(make_environment())
    finally:
        server.execute(f"ALTER DATABASE {database} RESET ALL")
    assert seen == ["on", "on", "remote_apply"]


def test_unsafe_server_is_refused(repository: PostgresStore, server: Server) -> None:
    """A server without fsync, or with an unlogged table, is refused before anything is written."""
    with PostgresStore(server.url) as store, pytest.raises(StoreUnavailableError, match="fsync"):
        store.save(make_environment())
    assert repository.count() == 0
    repository.save(make_environment())
    server.execute("ALTER TABLE waggle.change SET UNLOGGED")
    with PostgresStore(server.url) as store, pytest.raises(StoreUnavailableError, match="LOGGED"):
        store.save(make_environment())


def test_lost_changes_are_never_skipped(open_store: Open, server: Server) -> None:
    """After a failover that lost changes, cursors of these raise, and no number is used again."""
    store = open_store()
    for name in "abc":
        store.save(make_environment(id=name))
    *_, kept, lost = store.history()
    watch = store.watch(timeout=0)
    server.execute(
        "DELETE FROM waggle.change WHERE seq = 3",
        "DELETE FROM waggle.document WHERE id = 'c'",
        "UPDATE waggle.store SET last = 2, era = 'that of the server that is lost'",
    )
    with pytest.raises(HistoryLostError):
        next(watch)
    following = store.watch(after=kept.cursor, timeout=0)
    assert store.save(make_environment(id="d")) == ERA_GAP + 3
    assert store.save(make_environment(id="d")) == ERA_GAP + 4
    for after in (lost.cursor, lost.seq):
        with pytest.raises(HistoryLostError):
            store.history(after=after)
    with pytest.raises(HistoryLostError):
        next(watch)
    assert [event.environment_id for event in following] == ["d", "d"]
    with pytest.raises(ConflictError):
        store.save(make_environment(id="c"), if_revision=lost.seq)


def test_other_change_with_same_number_is_noticed(open_store: Open, server: Server) -> None:
    """A cursor is refused where an older dump was put back and has counted on."""
    store = open_store()
    store.save(make_environment(id="a"))
    watch = store.watch(timeout=0)
    (lost,) = store.history()
    server.execute("DROP SCHEMA waggle CASCADE")
    for _ in range(2):
        open_store().save(make_environment(id="b"))
    with pytest.raises(HistoryLostError):
        store.history(after=lost.cursor)
    with pytest.raises(HistoryLostError):
        next(watch)


def test_manual_edit_is_change(repository: PostgresStore, server: Server) -> None:
    """A manual edit of a row gets its own revision and event, and a conditional save conflicts."""
    repository.save(make_environment(id="a", name="before"))
    server.execute(
        "UPDATE waggle.document SET document = replace(document::text, 'before', 'after')::json"
    )
    assert repository.find_by_id("a").name == "after"
    with pytest.raises(ConflictError) as caught:
        repository.save(make_environment(id="a"), if_revision=1)
    assert caught.value.actual == 2
    assert [event.kind for event in repository.history()] == ["created", "external"]
    assert repository.find_by_id("a").revision == 2
    assert repository.save(make_environment(id="a"), if_revision=2) == 3


def test_corrupt_row_affects_no_other(repository: PostgresStore, server: Server) -> None:
    """A corrupt row is reported and not overwritten; deleting it keeps its text in the history."""
    for name in "ab":
        repository.save(make_environment(id=name))
    server.execute("UPDATE waggle.document SET document = '{\"id\": 1}' WHERE id = 'a'")
    for call in (repository.find_by_id, lambda name: repository.save(make_environment(id=name))):
        with pytest.raises(CorruptDocumentError, match=r"a\.json"):
            call("a")
    errors: list[Exception] = []
    assert [one.id for one in repository.find_all(on_corrupt=errors.append)] == ["b"]
    assert len(errors) == 1
    repository.save(make_environment(id="b"))
    repository.delete("a")
    *_, event = repository.history()
    assert (event.kind, event.environment) == ("deleted", None)
    assert repository.count() == 1


def test_store_is_founded_once(repository: PostgresStore, server: Server) -> None:
    """A session that has found no store, and then waits for its founder, finds it."""
    deadline = Deadline(30)
    with (
        repository._connections.writer(deadline) as first,
        repository._connections.writer(deadline) as second,
    ):
        for connection in (first, second):
            with pytest.raises(psycopg.errors.UndefinedTable):
                connection.execute(b"SELECT FROM waggle.store")
            # What the next question needs is in the caches of the session, too.
            assert connection.execute(schema.EXISTS.encode()).fetchone() == (False,)
    with psycopg.connect(server.url) as founder:
        founder.execute(schema.LOCK_FOUNDING.encode())
        saved: list[object] = []

        def save() -> None:
            try:
                saved.append(repository.save(make_environment()))
            except StoreUnavailableError as error:
                saved.append(error)

        thread = threading.Thread(target=save)
        thread.start()
        while not server.ask("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            time.sleep(0.01)
        founder.execute(schema.TABLES.encode())
        founder.commit()
        thread.join()
    assert saved == [1]


#: How long a writer waits for the lock of a stopped one.
_PATIENCE_S = 60.0


def test_stopped_client_does_not_keep_the_lock(repository: PostgresStore, server: Server) -> None:
    """A process that is stopped in a transaction loses it, in the time of a call."""
    repository.save(make_environment(id="a"))
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def hold() -> None:
        def work(*_: object) -> None:
            theirs.send("held")
            time.sleep(600)

        PostgresStore(server.url, durable=False, timeout=1)._writer.run(work, set(), alone=True)

    holder = context.Process(target=hold)
    holder.start()
    try:
        assert ours.recv() == "held"
        os.kill(holder.pid or 0, signal.SIGSTOP)
        with PostgresStore(server.url, durable=False, timeout=_PATIENCE_S) as store:
            assert store.save(make_environment(id="b")) == 2
    finally:
        holder.kill()
        holder.join()
    assert repository.count() == 2


def test_newer_format_is_refused(repository: PostgresStore, server: Server) -> None:
    """Tables of a newer version are neither read nor written."""
    repository.save(make_environment(id="a"))
    server.execute("UPDATE waggle.store SET format = format + 1")
    calls: list[Callable[[], object]] = [
        lambda: repository.find_by_id("a"),
        lambda: repository.find_by_id("missing"),
        repository.find_all,
        repository.count,
        repository.history,
        repository.watch,
        lambda: repository.save(make_environment()),
        lambda: repository.delete("a"),
    ]
    for call in calls:
        with pytest.raises(UnsupportedFormatError):
            call()


def test_document_is_text_of_files(repository: PostgresStore, server: Server) -> None:
    """The text of a document is that of its file, byte for byte, even with an escaped NUL."""
    environment = make_environment(id="a", extra={"text": "\0\u2028\\"})
    repository.save(environment)
    with psycopg.connect(server.url) as connection:
        rows = connection.execute("SELECT document::text FROM waggle.document").fetchall()
    assert rows[0][0].encode() == codec.encode(environment, 1)


def test_lock_of_other_writer_is_waited_for_in_time(
    repository: PostgresStore, server: Server
) -> None:
    """A writer that is kept from the lock raises LockTimeoutError, and readers go on."""
    repository.save(make_environment(id="a"))
    with (
        psycopg.connect(server.url) as other,
        PostgresStore(server.url, durable=False, timeout=0.2) as store,
    ):
        other.execute("SELECT FROM waggle.store FOR UPDATE")
        with pytest.raises(LockTimeoutError):
            store.save(make_environment(id="a"))
        assert store.count() == 1


def test_stopped_server_ends_no_call_late(server: Server) -> None:
    """Every call to a server that does not answer ends in time with an error that says so."""
    with PostgresStore(server.url, durable=False, timeout=0.2) as store:
        store.save(make_environment(id="a"))
        with psycopg.connect(server.url) as connection:
            found = connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE application_name = 'waggle-fsstore' "
                "AND datname = current_database()"
            )
            sessions = [pid for (pid,) in found.fetchall()]
            assert sessions
            try:
                for pid in sessions:
                    os.kill(pid, signal.SIGSTOP)
                for call in (store.count, lambda: store.save(make_environment(id="a"))):
                    with pytest.raises(StoreUnavailableError):
                        call()
            finally:
                for pid in sessions:
                    os.kill(pid, signal.SIGCONT)
        assert store.count() == 1


def test_each_thread_has_its_own_time(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that waits for another one first ends no later, and is not given up early."""
    now = begun = monotonic()
    outcomes: dict[int, type[Exception] | None] = {}
    leads, all_wait = threading.Event(), threading.Event()
    begin = Transaction.begin

    def beginning(transaction: Transaction, *arguments: Any) -> None:
        nonlocal now
        leads.set()
        assert all_wait.wait(_PATIENCE_S)
        if now >= begun + 2.65:  # The time of the second thread ended before this attempt.
            begin(transaction, *arguments)
            return
        now += 0.1
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    with PostgresStore(server.url, durable=False, timeout=2) as store:
        store.save(make_environment(id="a"))
        monkeypatch.setattr(connections, "monotonic", lambda: now)
        for module in (connections, writer_module):
            monkeypatch.setattr(module, "MAX_PAUSE_S", 0.001)
        monkeypatch.setattr(Transaction, "begin", beginning)

        def save(number: int) -> None:
            outcomes[number] = None
            try:
                store.save(make_environment(id=f"e{number}"))
            except StoreUnavailableError as error:
                outcomes[number] = type(error)

        threads = [threading.Thread(target=save, args=[number]) for number in range(3)]
        for number, thread in enumerate(threads):
            thread.start()
            assert leads.wait(_PATIENCE_S)
            while len(store._writer._queue) < number:
                time.sleep(0.001)
            now += 0.7
        all_wait.set()
        for thread in threads:
            thread.join()
    assert outcomes == {0: StoreUnavailableError, 1: StoreUnavailableError, 2: None}


def test_secrets_are_never_shown() -> None:
    """No password, user or option of the URL is in a message, a traceback or a representation."""
    url = "postgresql://maja:hunter2@/hive?host=/nowhere&connect_timeout=1"
    with PostgresStore(url, timeout=0.1) as store:
        assert repr(store) == "PostgresStore('/nowhere/hive')"
        for call in (store.count, lambda: store.save(make_environment())):
            with pytest.raises(StoreUnavailableError) as caught:
                call()
            assert "hunter2" not in "".join(traceback.format_exception(caught.value))
            assert "/nowhere/hive" in str(caught.value)
    for bad in ("postgresql://u:hunter2@[bad/db", "postgresql://u:hunter2@h/db?nope=1"):
        with pytest.raises(ValueError, match="URL") as refused:
            PostgresStore(bad)
        assert "hunter2" not in str(refused.value)


def test_url_opens_store(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL opens the store, as an argument and in the environment variable."""
    monkeypatch.setenv("WAGGLE_STORE_PATH", server.url)
    for store in (open_repository(server.url), open_repository()):
        assert isinstance(store, PostgresStore)
        assert store.find_all() == []
        store.close()


def test_time_of_a_call_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failover that takes longer than the default can be waited for."""
    monkeypatch.setenv("WAGGLE_STORE_TIMEOUT", "45s")
    store = open_repository("postgresql://127.0.0.1:1/db")
    assert isinstance(store, PostgresStore)
    assert store._connections.timeout == 45
    monkeypatch.delenv("WAGGLE_STORE_TIMEOUT")
    store = open_repository("postgresql://127.0.0.1:1/db")
    assert isinstance(store, PostgresStore)
    assert store._connections.timeout == 15
    for bad in ("45", "0s", "-1s", "11m"):
        monkeypatch.setenv("WAGGLE_STORE_TIMEOUT", bad)
        with pytest.raises(SettingError, match="WAGGLE_STORE_TIMEOUT"):
            open_repository("postgresql://127.0.0.1:1/db")


def test_bad_url_names_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an invalid URL comes from the environment variable, the error names it."""
    monkeypatch.setenv("WAGGLE_STORE_PATH", "postgresql://u:hunter2@h/db?nope=1")
    with pytest.raises(SettingError, match="WAGGLE_STORE_PATH") as caught:
        open_repository()
    assert "hunter2" not in str(caught.value)


def test_pickled_store_is_opened_again(repository: PostgresStore) -> None:
    """A store that was pickled has the same environments where it is loaded."""
    repository.save(make_environment(id="a"))
    with pickle.loads(pickle.dumps(repository)) as again:  # noqa: S301  # Made here.
        assert again.save(make_environment(id="a")) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_child_leaves_connections_of_parent_alone(repository: PostgresStore) -> None:
    """A forked child opens connections for itself, and the parent's remain usable."""
    repository.save(make_environment(id="a"))
    session = "SELECT pg_backend_pid()"
    parents = repository._connections.read(session)
    child = os.fork()
    if child == 0:
        status = 2
        try:
            repository.save(make_environment(id="b"))
            status = int(repository._connections.read(session) == parents)
            repository.close()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert repository._connections.read(session) == parents
    assert repository.save(make_environment(id="c")) == 3
    assert repository.count() == 3


def test_store_closed_during_a_read_leaves_no_connection(
    repository: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that is in use while the store is closed is closed when it is given back."""
    repository.save(make_environment(id="a"))
    used: list[Connection] = []
    execute = Connection.execute

    def closing(connection: Connection, *arguments: Any, **options: Any) -> Any:
        used.append(connection)
        repository.close()
        return execute(connection, *arguments, **options)

    monkeypatch.setattr(Connection, "execute", closing)
    assert repository.find_by_id("a").id == "a"
    assert used
    assert all(connection.closed for connection in used)


def test_thread_behind_full_group_is_served(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that leads a group without its own change leads another one."""
    monkeypatch.setattr(writer_module, "_MAX_GROUP", 1)
    with PostgresStore(server.url, durable=False, timeout=1) as store:
        store.save(make_environment(id="a"))
        writer = store._writer
        other = writer_module._Ticket(lambda *_: "other", set(), Deadline(30))
        writer._queue.append(other)
        assert store.save(make_environment(id="a")) == 2
        assert other.result == "other"


@contextmanager
def leading(writer: Writer) -> Iterator[None]:
    """Let another thread lead, with a transaction of its own, until the end of the block."""
    leads, is_over = threading.Event(), threading.Event()

    def work(*_: object) -> None:
        leads.set()
        assert is_over.wait(30)

    thread = threading.Thread(target=lambda: writer.run(work, set(), alone=True))
    thread.start()
    assert leads.wait(30)
    yield
    is_over.set()
    thread.join()


def test_waiting_threads_share_transaction(
    repository: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads that wait for one another commit together; a refusal concerns one of them only."""
    repository.save(make_environment(id="a"))
    commits: list[object] = []
    execute = Connection.execute

    def counting(connection: Connection, query: Any, *arguments: Any, **options: Any) -> Any:
        if query == b"COMMIT":
            commits.append(query)
        return execute(connection, query, *arguments, **options)

    monkeypatch.setattr(Connection, "execute", counting)
    outcomes: list[object] = []

    def save(number: int) -> None:
        try:
            environment = make_environment(id=f"e{number}")
            outcomes.append(repository.save(environment, if_revision=number // 5))
        except ConflictError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=save, args=[number]) for number in range(6)]
    writer = repository._writer
    with leading(writer):
        for thread in threads:
            thread.start()
        while len(writer._queue) < len(threads):
            pass
    for thread in threads:
        thread.join()
    assert len(commits) == 2  # That of the first leader, and one for all others.
    assert sorted(one for one in outcomes if isinstance(one, int)) == [2, 3, 4, 5, 6]
    assert repository.count() == 6


def test_threads_that_save_again_share_transactions(
    repository: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread whose change is made waits for no other one before its next change."""
    repository.save(make_environment(id="a"))
    commits: list[None] = []
    commit = Transaction.commit

    def slow(transaction: Transaction) -> None:
        commits.append(None)
        time.sleep(0.02)
        commit(transaction)

    monkeypatch.setattr(Transaction, "commit", slow)

    def save(number: int) -> None:
        for _ in range(10):
            repository.save(make_environment(id=f"e{number}"))

    threads = [threading.Thread(target=save, args=[number]) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert repository.last_change() == 161
    assert len(commits) < 50


def test_interrupted_thread_leaves_others_to_work(server: Server) -> None:
    """A thread that Ctrl-C interrupts while it leads hands over to the next one."""
    outcomes: list[object] = []
    with PostgresStore(server.url, durable=False, timeout=2) as store:
        store.save(make_environment(id="a"))

        def save() -> None:
            try:
                outcomes.append(store.save(make_environment(id="b")))
            except LockTimeoutError as error:
                outcomes.append(error)

        thread = threading.Thread(target=save)

        def work(*_: object) -> None:
            thread.start()
            while not store._writer._queue:
                time.sleep(0.01)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            store._writer.run(work, set())
        thread.join()
    assert outcomes == [2]


def test_changes_of_database_are_measured(open_store: Open) -> None:
    """Changes are measured with the wait for the server; the syncs are the server's."""
    store = open_store()
    environment = make_environment()
    store.create(environment)
    with pytest.raises(EnvironmentAlreadyExistsError):
        store.create(environment)
    assert store.saves.count == 1


def test_selected_events_are_those_that_pass_the_filter(
    repository: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A selection has the same events as a filter of the whole history, over several pages."""
    monkeypatch.setattr(history, "_READ", history._READ.replace("LIMIT 200", "LIMIT 3"))
    monkeypatch.setattr(history, "PAGE_ROWS", 3)
    for actor in (
        "maja",
        "MAJA I",
        "Stra\N{LATIN SMALL LETTER SHARP S}e",
        "\N{KELVIN SIGN}im",
        "%_",
    ):
        with audit(actor=actor):
            repository.create(make_environment(id=actor))
            repository.update(actor, lambda it: it.labels.update(team="red"))
            repository.save(make_environment(id="one"))
    repository.delete("one")
    events = list(repository.history())
    for wanted in (
        EventFilter(),
        EventFilter(actor="aja i"),
        EventFilter(actor="STRASSE"),
        EventFilter(actor="kim"),
        EventFilter(actor="%"),
        EventFilter(frozenset({"one", "\0"}), kinds=frozenset({EventKind.UPDATED})),
        EventFilter(since=events[3].at, until=events[9].at),
    ):
        found = list(repository.select_events(wanted))
        assert found == list(filter(wanted.matches, events)) != []
        some = list(repository.select_events(wanted, after=events[3].cursor, until=12))
        assert some == [one for one in found if 4 < one.seq <= 12]
    assert list(repository.select_events(EventFilter(frozenset({"\0"})))) == []
    assert list(repository.select_events(EventFilter(actor="a\0"))) == []
