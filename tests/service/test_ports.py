# SPDX-License-Identifier: Apache-2.0
"""Ports: each environment has one of its own, whoever gave it out."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.service.fakes import LONG, Gate, World, failing
from waggle_fsstore import (
    CapacityError,
    EnvironmentNotFoundError,
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
    """Ports of which no other program has one."""
    return Ports(range(first, last + 1), is_free=lambda _: True)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Another program of this machine, which listens on a port.

    It is none of those that the system gives out by itself (from 32,768 on): where tests run
    side by side, such a one has its next user as soon as it is free.
    """
    for port in range(31_001, 32_768):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)) as listener:
            yield listener
            return
    pytest.fail("there is no free port")


def test_the_usual_range() -> None:
    """10,000 to 11,000, both of them included."""
    assert (DEFAULT_PORTS[0], DEFAULT_PORTS[-1]) == (10_000, 11_000)


def test_round_they_go() -> None:
    """One that is given back comes again after all the others."""
    some = ports(10, 12)
    assert [some.take() for _ in range(2)] == [10, 11]
    some.give_back(10)
    assert [some.take() for _ in range(2)] == [12, 10]
    some.give_back(11)
    assert some.take() == 11


def test_none_is_left() -> None:
    """The error names the range."""
    some = ports(10, 11)
    some.take()
    some.take()
    with pytest.raises(NoFreePortError) as caught:
        some.take()
    assert (caught.value.first, caught.value.last) == (10, 11)
    some.give_back(11)
    assert some.take() == 11


def test_of_another_program(listener: socket.socket) -> None:
    """A port that something listens on is not given out, and is once it is free again."""
    port = listener.getsockname()[1]
    some = Ports(range(port, port + 1))
    with pytest.raises(NoFreePortError):
        some.take()
    listener.close()
    assert some.take() == port


def test_it_can_be_listened_on() -> None:
    """To look whether a port is free leaves it free."""
    some = Ports(range(30_000, 31_000))
    with socket.create_server(("", some.take())):
        pass


def test_what_is_stored_is_taken() -> None:
    """What was learned holds; what was taken and is not stored yet is not forgotten."""
    some = ports(10, 13)
    assert some.take() == 10
    some.learn(storing({"a": 11, "b": 0}))
    assert some.take() == 12
    some.keep(12, "c")
    some.learn(MemoryStore())
    assert [some.take() for _ in range(3)] == [13, 11, 12]
    with pytest.raises(NoFreePortError):
        some.take()


@given(st.lists(st.sampled_from(["take", "keep", "back", "forget", "learn"]), max_size=60))
def test_no_port_twice(steps: list[str]) -> None:
    """Whatever is taken, stored, given back and learned, no port is given out twice."""
    some = ports(1, 5)
    pending: list[int] = []
    stored: dict[str, int] = {}
    for number, step in enumerate(steps):
        if step == "take":
            if len(pending) + len(stored) == 5:
                with pytest.raises(NoFreePortError):
                    some.take()
            else:
                port = some.take()
                assert port not in pending
                assert port not in stored.values()
                pending.append(port)
        elif step == "keep" and pending:
            name = f"env-{number}"
            stored[name] = pending.pop(0)
            some.keep(stored[name], name)
        elif step == "back" and pending:
            some.give_back(pending.pop())
        elif step == "forget" and stored:
            name = min(stored)
            del stored[name]
            some.forget(name)
        elif step == "learn":
            some.learn(storing(stored))


def storing(stored: dict[str, int]) -> MemoryStore:
    """A store in which environments have these ports."""
    store = MemoryStore()
    for name, port in stored.items():
        store.save(make_environment(id=name, ssh_port=port))
    return store


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.sampled_from([None, 0, 10, 11, 12]),
            st.sampled_from(["", "", "follow", "learn"]),
        ),
        max_size=30,
    )
)
def test_following_is_as_good_as_looking(changes: list[tuple[str, int | None, str]]) -> None:
    """Whatever was stored, moved and deleted by others, it knows what a listing would tell."""
    some, store = ports(10, 12), MemoryStore()
    for name, port, then in changes:
        if port is not None:
            store.save(make_environment(id=name, ssh_port=port))
        elif store.count() and any(one.id == name for one in store.find_all()):
            store.delete(name)
        if then == "learn":
            some.learn(store)
        elif then == "follow":
            own = make_environment(id="own", ssh_port=10)
            some.follow(store, store.save(own))
            others = [one.ssh_port for one in store.find_all() if one.id != "own"]
            for own.ssh_port in (10, 11, 12):
                assert some.is_shared(own) == (own.ssh_port in others)


def test_a_history_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the documents tell."""
    some, store = ports(10, 12), MemoryStore()
    own = make_environment(id="own", ssh_port=10)
    some.follow(store, store.save(own))
    store.save(make_environment(ssh_port=11))

    def refuse(*_: object, **__: object) -> None:
        raise HistoryPrunedError(7)

    monkeypatch.setattr(store, "history", refuse)
    some.follow(store, store.save(own))
    own.ssh_port = 11
    assert some.is_shared(own)


def test_a_create_lists_nothing(world: World) -> None:
    """However many environments there are, only what is new is looked at for a port."""
    one, other = (world.service(ports=ports(10, 19)) for _ in range(2))
    created = [service.create("shell") for service in (one, other)]
    world.script.passed.clear()
    created += [service.create("shell") for service in (one, other, one)]
    assert one.destroy(created.pop(0).id)
    created += [service.create("shell") for service in (other, one)]
    assert "before find_all" not in world.script.passed
    assert len({one.ssh_port for one in created}) == len(created)


def test_after_a_restart(world: World) -> None:
    """A new service knows from the store what is taken, and need not choose twice."""
    world.service(ports=ports(10, 19)).create("shell")
    later = world.service(ports=ports(10, 19)).create("shell")
    assert later.ssh_port == 11
    assert len(world.story(later.id)) == 2


def test_given_back(world: World) -> None:
    """The port of what is destroyed can be had again, and that of what failed."""
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


def test_what_is_refused_takes_no_port(world: World) -> None:
    """However often there is no room, or the store fails, all ports are there afterwards."""
    service = world.service(ports=ports(10, 11), capacity=1)
    service.create("shell")
    for _ in range(3):
        with pytest.raises(CapacityError):
            service.create("shell")
        world.script.at("before create", failing(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space"):
            service.create("shell")
    assert world.service(ports=ports(10, 11), capacity=2).create("shell").ssh_port == 11


def test_given_back_by_another_service(world: World) -> None:
    """What another process destroyed is free for this one too, when it needs it."""
    one, other = (world.service(ports=ports(10, 11)) for _ in range(2))
    names = [one.create("shell").id for _ in range(2)]
    with pytest.raises(NoFreePortError):
        one.create("shell")
    assert other.destroy(names[0])
    assert one.create("shell").ssh_port == 10


def test_two_services_at_once(world: World) -> None:
    """Where two stored the same port, whoever sees it takes another one, and says why."""
    one, other = (world.service(ports=ports(10, 19)) for _ in range(2))
    gate = Gate()
    # The first one has chosen its port, and stores it after the second one is done.
    world.script.at("before create", gate)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(one.create, "shell")
        gate.wait_until_reached()
        quick = other.create("shell")
        gate.open()
        created = slow.result(LONG)
    assert quick.ssh_port == 10
    assert created.ssh_port == world.stored(created.id).ssh_port == 11
    assert [step.reason for step in world.story(created.id)] == [
        "create was called",
        "another environment has the same port",
        "its workspace is ready",
    ]


def test_two_services_that_see_each_other(world: World) -> None:
    """Both have stored the same port before either looks: they end with different ones."""
    one, other = (world.service(ports=ports(10, 19)) for _ in range(2))
    first, second = Gate(), Gate()
    world.script.at("after create", first)
    world.script.at("after create", second, nth=2)
    with ThreadPoolExecutor(2) as pool:
        creations = [pool.submit(one.create, "shell")]
        first.wait_until_reached()
        creations.append(pool.submit(other.create, "shell"))
        second.wait_until_reached()
        assert {stored.ssh_port for stored in world.store.real.find_all()} == {10}
        first.open()
        second.open()
        created = [creation.result(LONG) for creation in creations]
    assert len({stored.ssh_port for stored in created}) == 2
    assert world.store.find_all() == sorted(created, key=lambda stored: stored.id)


def test_destroyed_before_its_port_is_changed(world: World) -> None:
    """The port that it would have got is free again."""
    one, other = (world.service(ports=ports(10, 12), patience=0) for _ in range(2))

    def destroy() -> None:
        [creating] = [s for s in world.store.real.find_all() if s.status is Status.CREATING]
        other.destroy(creating.id)

    world.script.at("before create", lambda: other.create("shell"))
    world.script.at("before update", destroy, nth=2)
    with pytest.raises(EnvironmentNotFoundError):
        one.create("shell")
    assert [one.create("shell").ssh_port for _ in range(2)] == [12, 11]


def test_failed_before_its_port_is_changed(world: World) -> None:
    """What is not being created any more gets no port: nobody would give it back."""
    one, other = (world.service(ports=ports(10, 12)) for _ in range(2))

    def fail() -> None:
        [creating] = [s for s in world.store.real.find_all() if s.status is Status.CREATING]
        creating.transition_to(Status.ERROR)
        creating.ssh_port = 0
        world.store.real.save(creating)

    world.script.at("before create", lambda: other.create("shell"))
    world.script.at("before update", fail, nth=2)
    failed = one.create("shell")
    assert (failed.status, failed.ssh_port) == (Status.ERROR, 0)
    assert sorted(one.create("shell").ssh_port for _ in range(2)) == [11, 12]
