# SPDX-License-Identifier: Apache-2.0
"""The ports of environments, which are unique over all services of a store."""

import errno
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.service.fakes import TIMEOUT_S, Gate, World, failing
from waggle_fsstore import (
    CapacityError,
    EnvironmentNotFoundError,
    FileStore,
    HistoryPrunedError,
    MemoryStore,
    NoFreePortError,
    ProviderError,
    Status,
)
from waggle_fsstore.domain.defaults import DEFAULT_PORTS
from waggle_fsstore.service.ports import Ports
from waggle_fsstore.testing import make_environment


def ports(first: int, last: int) -> Ports:
    """Return ports that no other program uses."""
    return Ports(range(first, last + 1), is_free=lambda _: True)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A socket that listens on a port, as another program of this machine would.

    The port is below those that the system gives out by itself (from 32,768 on): where tests
    run concurrently, another process may take such a port as soon as it is free.
    """
    for port in range(31_001, 32_768):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)) as listener:
            yield listener
            return
    pytest.fail("there is no free port")


def test_default_range_includes_both_ends() -> None:
    """The default ports are 10,000 to 11,000."""
    assert (DEFAULT_PORTS[0], DEFAULT_PORTS[-1]) == (10_000, 11_000)


def test_released_port_is_reused_last() -> None:
    """A released port is given out again after all others."""
    pool = ports(10, 12)
    assert [pool.reserve() for _ in range(2)] == [10, 11]
    pool.release(10)
    assert [pool.reserve() for _ in range(2)] == [12, 10]
    pool.release(11)
    assert pool.reserve() == 11


def test_exhausted_range_raises() -> None:
    """The error names the range."""
    pool = ports(10, 11)
    pool.reserve()
    pool.reserve()
    with pytest.raises(NoFreePortError) as caught:
        pool.reserve()
    assert (caught.value.first, caught.value.last) == (10, 11)
    pool.release(11)
    assert pool.reserve() == 11


def test_port_in_use_by_another_program_is_skipped(listener: socket.socket) -> None:
    """A port on which a program listens is given out only when it is free again."""
    port = listener.getsockname()[1]
    pool = Ports(range(port, port + 1))
    with pytest.raises(NoFreePortError):
        pool.reserve()
    listener.close()
    assert pool.reserve() == port


def refuse(code: int) -> Callable[[], None]:
    def make_socket() -> None:
        raise OSError(code, os.strerror(code))

    return make_socket


def test_port_is_checked_where_tests_disable_sockets(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check does without the class that pytest-socket replaces, and sends nothing."""
    port = listener.getsockname()[1]
    monkeypatch.setattr(socket, "socket", None)
    with pytest.raises(NoFreePortError):
        Ports(range(port, port + 1)).reserve()


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EAFNOSUPPORT])
def test_port_is_given_out_where_no_socket_can_be_made(
    monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Nothing can be checked there, so no port is known to be in use."""
    monkeypatch.setattr(socket, "SocketType", refuse(code))
    assert Ports(range(10, 12)).reserve() == 10


def test_exhausted_descriptors_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process out of descriptors has not checked the port, and says so."""
    monkeypatch.setattr(socket, "SocketType", refuse(errno.EMFILE))
    with pytest.raises(OSError, match="Too many open files"):
        Ports(range(10, 12)).reserve()


def test_checking_a_port_leaves_it_free() -> None:
    """A program can listen on a port right after it was checked."""
    pool = Ports(range(30_000, 31_000))
    with socket.create_server(("", pool.reserve())):
        pass


def test_stored_and_reserved_ports_are_not_given_out() -> None:
    """Loading stored ports keeps the reservations of those that are not stored yet."""
    pool = ports(10, 13)
    assert pool.reserve() == 10
    pool.load(storing({"a": 11, "b": 0}))
    assert pool.reserve() == 12
    pool.assign(12, "c")
    pool.load(MemoryStore())
    assert [pool.reserve() for _ in range(3)] == [13, 11, 12]
    with pytest.raises(NoFreePortError):
        pool.reserve()


@given(st.lists(st.sampled_from(["reserve", "assign", "release", "unassign", "load"]), max_size=60))
def test_no_port_is_given_out_twice(steps: list[str]) -> None:
    """No sequence of reserving, storing, releasing and loading gives a port out twice."""
    pool = ports(1, 5)
    pending: list[int] = []
    stored: dict[str, int] = {}
    for number, step in enumerate(steps):
        if step == "reserve":
            if len(pending) + len(stored) == 5:
                with pytest.raises(NoFreePortError):
                    pool.reserve()
            else:
                port = pool.reserve()
                assert port not in pending
                assert port not in stored.values()
                pending.append(port)
        elif step == "assign" and pending:
            name = f"env-{number}"
            stored[name] = pending.pop(0)
            pool.assign(stored[name], name)
        elif step == "release" and pending:
            pool.release(pending.pop())
        elif step == "unassign" and stored:
            name = min(stored)
            del stored[name]
            pool.unassign(name)
        elif step == "load":
            pool.load(storing(stored))


def storing(stored: dict[str, int]) -> MemoryStore:
    """Return a store whose environments have these ports, by id."""
    store = MemoryStore()
    for name, port in stored.items():
        store.save(make_environment(id=name, ssh_port=port))
    return store


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.sampled_from([None, 0, 10, 11, 12]),
            st.sampled_from(["", "", "catch_up", "load"]),
        ),
        max_size=30,
    )
)
def test_catching_up_equals_listing(changes: list[tuple[str, int | None, str]]) -> None:
    """After any changes by others, reading the events gives the same ports as a listing."""
    pool, store = ports(10, 12), MemoryStore()
    for name, port, then in changes:
        if port is not None:
            store.save(make_environment(id=name, ssh_port=port))
        elif store.count() and any(one.id == name for one in store.find_all()):
            store.delete(name)
        if then == "load":
            pool.load(store)
        elif then == "catch_up":
            own = make_environment(id="own", ssh_port=10)
            pool.catch_up(store, store.save(own))
            others = [one.ssh_port for one in store.find_all() if one.id != "own"]
            for own.ssh_port in (10, 11, 12):
                assert pool.is_shared(own) == (own.ssh_port in others)


def test_unreadable_history_falls_back_to_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the history cannot be read, the ports come from the documents."""
    pool, store = ports(10, 12), MemoryStore()
    own = make_environment(id="own", ssh_port=10)
    pool.catch_up(store, store.save(own))
    store.save(make_environment(ssh_port=11))

    def raise_pruned(*_: object, **__: object) -> None:
        raise HistoryPrunedError(7)

    monkeypatch.setattr(store, "history", raise_pruned)
    pool.catch_up(store, store.save(own))
    own.ssh_port = 11
    assert pool.is_shared(own)


@pytest.mark.parametrize("saves", [1, 6])
def test_journal_that_began_again_falls_back_to_documents(tmp_path: Path, saves: int) -> None:
    """Where a cleaned-up journal gave way to a new one, ports that others stored are known."""
    pool, store = ports(10, 12), FileStore(tmp_path / "store", durable=False)
    own = make_environment(id="own", ssh_port=10)
    pool.catch_up(store, store.save(own))
    for _ in range(4):
        store.save(make_environment(id="short-lived"))
    store.delete("short-lived")
    pool.catch_up(store, store.save(make_environment(id="own-2", ssh_port=0)))
    store.delete("own-2")
    for name in (".waggle", "journal"):  # As git clean -fdx does.
        shutil.rmtree(store.path / name)
    with FileStore(store.path, durable=False) as other:
        for _ in range(saves):
            other.save(make_environment(id="foreign", ssh_port=11))
    pool.catch_up(store, store.save(own))
    own.ssh_port = 11
    assert pool.is_shared(own)


def test_create_does_not_list_environments(world: World) -> None:
    """With any number of environments, a creation reads only new events to choose a port."""
    one, other = (world.service(ports=ports(10, 19)) for _ in range(2))
    created = [service.create("shell") for service in (one, other)]
    world.script.passed.clear()
    created += [service.create("shell") for service in (one, other, one)]
    assert one.destroy(created.pop(0).id)
    created += [service.create("shell") for service in (other, one)]
    assert "before find_all" not in world.script.passed
    assert len({one.ssh_port for one in created}) == len(created)


def test_new_service_knows_stored_ports(world: World) -> None:
    """A new service reads the used ports from the store, and need not choose twice."""
    world.service(ports=ports(10, 19)).create("shell")
    later = world.service(ports=ports(10, 19)).create("shell")
    assert later.ssh_port == 11
    assert len(world.events_of(later.id)) == 2


def test_port_is_reused_after_destroy_and_failure(world: World) -> None:
    """The port of a destroyed environment and of a failed creation can be given out again."""
    service = world.service(ports=ports(10, 11))
    first = service.create("shell")
    world.script.at("halfway make", failing(ProviderError("fake", "no room")))
    with pytest.raises(ProviderError):
        service.create("shell")
    [broken] = [one for one in world.store.find_all() if one.status is Status.ERROR]
    assert broken.ssh_port == 0
    assert service.create("shell").ssh_port == 11
    with pytest.raises(NoFreePortError):
        service.create("shell")
    assert service.destroy(first.id)
    assert service.create("shell").ssh_port == 10


def test_refused_creation_releases_its_port(world: World) -> None:
    """However many creations are refused by the capacity or the store, all ports stay free."""
    service = world.service(ports=ports(10, 11), capacity=1)
    service.create("shell")
    for _ in range(3):
        with pytest.raises(CapacityError):
            service.create("shell")
        world.script.at("before create", failing(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space"):
            service.create("shell")
    assert world.service(ports=ports(10, 11), capacity=2).create("shell").ssh_port == 11


def test_port_freed_by_another_service_is_found(world: World) -> None:
    """A service that runs out of ports finds the one that another process has freed."""
    one, other = (world.service(ports=ports(10, 11)) for _ in range(2))
    names = [one.create("shell").id for _ in range(2)]
    with pytest.raises(NoFreePortError):
        one.create("shell")
    assert other.destroy(names[0])
    assert one.create("shell").ssh_port == 10


def test_later_of_two_services_changes_shared_port(world: World) -> None:
    """Of two services that stored the same port, the one that sees it changes its own."""
    one, other = (world.service(ports=ports(10, 19)) for _ in range(2))
    gate = Gate()
    # The first one has reserved its port, and stores it after the second one is done.
    world.script.at("before create", gate)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(one.create, "shell")
        gate.wait_until_reached()
        quick = other.create("shell")
        gate.open()
        created = slow.result(TIMEOUT_S)
    assert quick.ssh_port == 10
    assert created.ssh_port == world.stored(created.id).ssh_port == 11
    assert [step.reason for step in world.events_of(created.id)] == [
        "create was called",
        "another environment has the same port",
        "its workspace is ready",
    ]


def test_two_services_that_see_each_other_end_with_distinct_ports(world: World) -> None:
    """Services that both stored the same port before either checks end with different ones."""
    one, other = (world.service(ports=ports(10, 19)) for _ in range(2))
    first, second = Gate(), Gate()
    world.script.at("after create", first)
    world.script.at("after create", second, nth=2)
    with ThreadPoolExecutor(2) as pool:
        creations = [pool.submit(one.create, "shell")]
        first.wait_until_reached()
        creations.append(pool.submit(other.create, "shell"))
        second.wait_until_reached()
        assert {stored.ssh_port for stored in world.real_store.find_all()} == {10}
        first.open()
        second.open()
        created = [creation.result(TIMEOUT_S) for creation in creations]
    assert len({stored.ssh_port for stored in created}) == 2
    assert world.store.find_all() == sorted(created, key=lambda stored: stored.id)


def test_environment_destroyed_before_port_change_releases_new_port(world: World) -> None:
    """The port that was reserved for the change is free again."""
    one, other = (world.service(ports=ports(10, 12), takeover_after=0) for _ in range(2))

    def destroy() -> None:
        [creating] = [s for s in world.real_store.find_all() if s.status is Status.CREATING]
        other.destroy(creating.id)

    world.script.at("before create", lambda: other.create("shell"))
    world.script.at("before update", destroy, nth=2)
    with pytest.raises(EnvironmentNotFoundError):
        one.create("shell")
    assert [one.create("shell").ssh_port for _ in range(2)] == [12, 11]


def test_environment_failed_before_port_change_gets_no_port(world: World) -> None:
    """An environment that is no longer being created gets no port, which it would never release."""
    one, other = (world.service(ports=ports(10, 12)) for _ in range(2))

    def fail() -> None:
        [creating] = [s for s in world.real_store.find_all() if s.status is Status.CREATING]
        creating.transition_to(Status.ERROR)
        creating.ssh_port = 0
        world.real_store.save(creating)

    world.script.at("before create", lambda: other.create("shell"))
    world.script.at("before update", fail, nth=2)
    failed = one.create("shell")
    assert (failed.status, failed.ssh_port) == (Status.ERROR, 0)
    assert sorted(one.create("shell").ssh_port for _ in range(2)) == [11, 12]
