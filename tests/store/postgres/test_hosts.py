# SPDX-License-Identifier: Apache-2.0
"""The table of hosts, and the capacity of each of them."""

import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

pytest.importorskip("psycopg", reason="needs the extra 'postgres'")

from tests.store.postgres.servers import Server
from waggle_fsstore import (
    CapacityError,
    HostNotFoundError,
    HostRefusedError,
    LockTimeoutError,
    StoreUnavailableError,
)
from waggle_fsstore.domain.environment import Environment, Status
from waggle_fsstore.domain.host import Host
from waggle_fsstore.store.postgres.connections import Connections
from waggle_fsstore.store.postgres.store import PostgresStore
from waggle_fsstore.testing import make_environment


def only(found: list[Host]) -> Host:
    (host,) = found
    return host


def live(host_id: str | None, **fields: object) -> Environment:
    return make_environment(status=Status.RUNNING, host_id=host_id, idempotency=None, **fields)


def test_host_is_registered_and_renamed(repository: PostgresStore) -> None:
    """The first registration makes the store; another name for the same id is a new name."""
    assert repository.hosts.find_all() == []
    repository.hosts.register("1", "maja", "http://maja:8080", "boot")
    first = only(repository.hosts.find_all())
    assert (first.id, first.name, first.url, first.removed_at) == (
        "1",
        "maja",
        "http://maja:8080",
        None,
    )
    repository.hosts.register("1", "willi", "", "boot")
    assert [one.name for one in repository.hosts.find_all()] == ["willi"]
    repository.hosts.register("2", "maja", "", "boot")
    assert [one.name for one in repository.hosts.find_all()] == ["maja", "willi"]
    assert repository.last_change() == 0


def test_name_of_another_host_is_refused(repository: PostgresStore) -> None:
    """A copied machine, or one without its disk, does not take the place of another."""
    repository.hosts.register("1", "maja", "http://maja:8080", "boot")
    with pytest.raises(HostRefusedError, match="another host has this name: set WAGGLE_HOST"):
        repository.hosts.register("2", "maja", "", "boot")
    assert only(repository.hosts.find_all()).id == "1"


def test_only_one_of_several_gets_a_name(open_store: Callable[[], PostgresStore]) -> None:
    """Of hosts that start at once with one name, all but one are refused."""
    outcomes: list[object] = []

    def start(number: int) -> None:
        try:
            open_store().hosts.register(str(number), "maja", "", "boot")
            outcomes.append(None)
        except HostRefusedError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=start, args=[number]) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(map(type, outcomes)) == {type(None): 1, HostRefusedError: 5}


def test_heartbeat_is_seen(repository: PostgresStore, server: Server) -> None:
    """The time is that of the database, and the difference to it says who is silent."""
    repository.hosts.register("1", "maja", "", "boot")
    server.execute("UPDATE waggle.host SET seen_at = seen_at - interval '1 hour'")
    assert only(repository.hosts.find_all()).is_silent(repository.hosts.now())
    repository.hosts.beat("1", "boot")
    now = repository.hosts.now()
    host = only(repository.hosts.find_all())
    assert now - host.seen_at < timedelta(seconds=20)
    assert not host.is_silent(now)
    assert abs(now - datetime.now(UTC)) < timedelta(seconds=20)


def test_heartbeat_waits_for_no_flush(
    repository: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is lost does no harm, and a missing standby must not make a host silent."""
    repository.hosts.register("1", "maja", "", "boot")
    settings: list[object] = []
    read = Connections.read

    def read_and_look(self: Connections, statement: str, *given: Any, **options: Any) -> Any:
        statement = statement.replace("name", "current_setting('synchronous_commit')")
        settings.extend(read(self, statement, *given, **options))
        return settings

    monkeypatch.setattr(Connections, "read", read_and_look)
    repository.hosts.beat("1", "boot")
    monkeypatch.undo()
    assert settings == [("off",)]
    assert repository._connections.read("SHOW synchronous_commit") == [("on",)]


def test_removed_host_is_refused(repository: PostgresStore) -> None:
    """It may neither beat nor register again; its name is free, and removing it again works."""
    repository.hosts.register("1", "maja", "", "boot")
    removed = repository.hosts.remove("maja")
    assert removed.id == "1"
    assert removed.removed_at is not None
    assert repository.hosts.remove("maja") == removed
    with pytest.raises(HostRefusedError, match="an operator removed it"):
        repository.hosts.beat("1", "boot")
    with pytest.raises(HostRefusedError, match="an operator removed it"):
        repository.hosts.register("1", "x", "", "boot")
    repository.hosts.register("2", "maja", "", "boot")
    assert [(one.id, one.removed_at is None) for one in repository.hosts.find_all()] == [
        ("1", False),
        ("2", True),
    ]
    assert repository.hosts.remove("maja").id == "2"


def test_copy_of_the_id_on_another_machine_is_refused(
    repository: PostgresStore, server: Server
) -> None:
    """A cloned disk makes no second host of one; a disk that has moved works after a while."""
    assert repository.hosts.register("1", "maja", "", "boot")
    assert repository.hosts.register("1", "maja", "", "boot")
    assert not repository.hosts.register("1", "willi", "", "other boot")
    assert only(repository.hosts.find_all()).name == "maja"
    repository.hosts.beat("1", "boot")
    server.execute("UPDATE waggle.host SET seen_at = seen_at - interval '31 seconds'")
    assert repository.hosts.register("1", "maja", "", "other boot")
    with pytest.raises(HostRefusedError, match="another machine has the same id"):
        repository.hosts.beat("1", "boot")
    repository.hosts.beat("1", "other boot")


def test_unknown_host_is_not_removed(repository: PostgresStore) -> None:
    """A misspelt name is an error, also before there is a store."""
    with pytest.raises(HostNotFoundError):
        repository.hosts.remove("maja")


def test_unregistered_host_does_not_beat(repository: PostgresStore) -> None:
    """A host whose row is gone is not brought back by its heartbeat."""
    with pytest.raises(HostRefusedError):
        repository.hosts.beat("1", "boot")


def test_capacity_counts_live_environments_of_the_host(repository: PostgresStore) -> None:
    """What other hosts have takes no room, nor do records without a host."""
    for host_id in (None, "1", "2"):
        for _ in range(2):
            repository.create(live(host_id), capacity=2)
    for host_id in (None, "1", "2"):
        with pytest.raises(CapacityError):
            repository.create(live(host_id), capacity=2)
    (broken,) = [one for one in repository.find_all() if one.host_id == "1"][:1]
    repository.update(broken.id, lambda stored: stored.transition_to(Status.ERROR))
    repository.create(live("1"), capacity=2)
    with pytest.raises(CapacityError):
        repository.update(
            broken.id, lambda stored: stored.transition_to(Status.RUNNING), capacity=2
        )


def test_capacity_of_each_host_is_exact(open_store: Callable[[], PostgresStore]) -> None:
    """Three hosts create at once, with room for ten each: each has exactly ten."""
    refused: Counter[str] = Counter()

    def create(store: PostgresStore, host_id: str) -> None:
        for _ in range(5):
            try:
                store.create(live(host_id), capacity=10)
            except CapacityError:
                refused[host_id] += 1

    stores = {host_id: open_store() for host_id in "123"}
    threads = [
        threading.Thread(target=create, args=[stores[host_id], host_id])
        for host_id in stores
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stored = Counter(one.host_id for one in open_store().find_all())
    assert stored == {"1": 10, "2": 10, "3": 10}
    assert refused == {"1": 10, "2": 10, "3": 10}


def test_environment_keeps_its_host(repository: PostgresStore, server: Server) -> None:
    """The column is that of the document; a manual edit of it is noticed as one."""
    repository.save(live("1", id="a"))
    assert repository.find_by_id("a").host_id == "1"
    server.execute("UPDATE waggle.document SET host_id = '2'")
    repository.update("a", lambda stored: setattr(stored, "name", "new"))
    assert [event.kind for event in repository.history("a")] == ["created", "external", "updated"]
    with pytest.raises(CapacityError):
        repository.create(live("1"), capacity=1)


def test_store_tells_whether_it_can_be_written(
    repository: PostgresStore, open_store: Callable[[], PostgresStore]
) -> None:
    """It takes the lock for a moment, and says why it cannot."""
    repository.save(make_environment(id="a"))
    repository.check_writable(timeout=5)
    assert repository.last_change() == 1
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        assert done.wait(30)

    def keep_lock() -> None:
        store = open_store()
        store._writer.run(lambda *_: hold(), set(), alone=True)

    thread = threading.Thread(target=keep_lock)
    thread.start()
    assert held.wait(30)
    with pytest.raises(LockTimeoutError):
        repository.check_writable(timeout=0.5)
    done.set()
    thread.join()
    lost = PostgresStore("postgresql://127.0.0.1:1/waggle?connect_timeout=1")
    with pytest.raises(StoreUnavailableError):
        lost.check_writable(timeout=0.5)
