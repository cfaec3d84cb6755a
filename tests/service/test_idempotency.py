# SPDX-License-Identifier: Apache-2.0
"""Idempotency keys: a repeated call returns the environment that the first one created."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.service.fakes import MINUTE, TIMEOUT_S, Gate, World, failing, owner, together
from tests.service.worker import run_worker
from waggle_fsstore import (
    Cancellation,
    CreationCancelledError,
    Environment,
    FileStore,
    Idempotency,
    IdempotencyKeyReusedError,
    InvalidEnvironmentError,
    NoFreePortError,
    ProviderError,
    Runtime,
    Status,
)
from waggle_fsstore.service.idempotency import digest
from waggle_fsstore.service.ports import Ports

ARGUMENTS: dict[str, Any] = {
    "name": "Build",
    "timeout": 5 * MINUTE,
    "labels": {"team": "red", "pip": "yes"},
}


def test_repeated_call_returns_first_environment(world: World) -> None:
    """The same key and arguments give the same environment, without a free port or capacity."""
    only_port = Ports(range(20_000, 20_001), is_free=lambda _: True)
    service = world.service(capacity=1, ports=only_port)
    created = service.create("python", idempotency_key="one", **ARGUMENTS)
    assert service.create(Runtime.PYTHON, idempotency_key="one", **ARGUMENTS) == created
    assert world.store.find_all() == [created]
    with pytest.raises(NoFreePortError):
        service.create("python", idempotency_key="two", **ARGUMENTS)


def test_repeated_call_after_restart_returns_first_environment(tmp_path: Path) -> None:
    """The key is in the document: another process with the store finds it."""
    with FileStore(tmp_path / "store", durable=False) as store:
        created = (
            World(store, tmp_path / "workspaces").service().create("shell", idempotency_key="one")
        )
    with FileStore(tmp_path / "store", durable=False) as store:
        service = World(store, tmp_path / "workspaces").service()
        service.reconcile()
        assert service.create("shell", idempotency_key="one").id == created.id


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "Other"},
        {"name": None},
        {"timeout": 6 * MINUTE},
        {"timeout": None},
        {"labels": {"team": "red"}},
        {"labels": None},
        {"runtime": "node"},
    ],
    ids=str,
)
def test_key_with_other_arguments_is_refused(world: World, changed: dict[str, Any]) -> None:
    """The error names the key and its environment, and nothing is stored."""
    service = world.service()
    arguments = {"runtime": "shell", "idempotency_key": "one", **ARGUMENTS}
    created = service.create(**arguments)
    with pytest.raises(IdempotencyKeyReusedError) as caught:
        service.create(**{**arguments, **changed})
    assert (caught.value.idempotency_key, caught.value.environment_id) == ("one", created.id)
    assert world.store.find_all() == [created]


def test_later_changes_are_no_other_arguments(world: World) -> None:
    """A changed name, label or default of the server does not change what the call asked for."""
    created = world.service().create("shell", idempotency_key="one")

    def change(stored: Environment) -> None:
        stored.name = "renamed"
        stored.labels = {"team": "blue"}

    world.store.update(created.id, change)
    service = world.service(default_timeout=7 * MINUTE)
    found = service.create("shell", idempotency_key="one")
    assert (found.id, found.name) == (created.id, "renamed")


@pytest.mark.parametrize("key", ["", " ", "\t", "\u3000", "a\nb", "x" * 201, "\ud800"])
def test_invalid_key_is_refused(world: World, key: str) -> None:
    """A key has 1-200 printable characters that are not all blank."""
    with pytest.raises(InvalidEnvironmentError) as caught:
        world.service().create("shell", idempotency_key=key)
    assert caught.value.field == "idempotency_key"
    assert world.store.find_all() == []


def test_second_call_waits_for_first(world: World) -> None:
    """A call that comes while the first is creating the environment returns the same one."""
    service = world.service()
    gate = Gate()
    world.script.at("halfway make", gate)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(service.create, "shell", idempotency_key="one")
        gate.wait_until_reached()
        looked_again = threading.Event()
        world.script.at("after find_by_id", looked_again.set, nth=3)
        second = pool.submit(service.create, "shell", idempotency_key="one")
        second.add_done_callback(lambda _: looked_again.set())
        assert looked_again.wait(TIMEOUT_S)
        assert not second.done()
        gate.open()
        assert first.result(TIMEOUT_S).is_running
        assert second.result(TIMEOUT_S).is_running
    assert first.result().id == second.result().id
    assert world.store.count() == 1


def test_concurrent_calls_create_one_environment(world: World) -> None:
    """Of eight calls that all looked in vain for the key, one creates, and all return the same."""
    services = [world.service() for _ in range(2)]
    barrier = threading.Barrier(8)
    world.script.always("before create", lambda: barrier.wait(TIMEOUT_S))
    results = together(
        *[lambda s=s: s.create("shell", idempotency_key="one") for s in services * 4]
    )
    [stored] = world.store.find_all()
    assert {one.id for one in results if isinstance(one, Environment)} == {stored.id}
    assert len(results) == 8
    assert world.provider.workspaces() == {stored.id}


def test_concurrent_processes_create_one_environment(file_world: World, tmp_path: Path) -> None:
    """Of two processes that both looked in vain for the key, one creates the environment."""
    verbs = ("pause", "before create", "create-once", "one")
    with ExitStack() as stack:
        workers = [stack.enter_context(run_worker(tmp_path, *verbs)) for _ in range(2)]
        for worker in workers:
            worker.expect("at before create")  # It has found no environment with the key.
        for worker in workers:
            worker.resume()
        lines = [line for worker in workers for line in worker.finish()]
    [stored] = file_world.store.find_all()
    assert lines == [f"done {stored.id}"] * 2
    assert file_world.provider.workspaces() == {stored.id}


def test_failed_creation_frees_its_key(world: World) -> None:
    """After a creation that failed, the same call tries again."""
    service = world.service()
    world.script.at("halfway make", failing(ProviderError("fake", "no room")))
    with pytest.raises(ProviderError):
        service.create("shell", idempotency_key="one")
    created = service.create("shell", idempotency_key="one")
    assert created.is_running
    assert service.create("shell", idempotency_key="one").id == created.id


def test_interrupted_creation_frees_its_key(world: World) -> None:
    """A creation whose process ended is failed by the repeated call, which does not wait."""
    arguments = digest(Runtime.SHELL, None, None, None)
    halfway = world.store_environment(
        idempotency=Idempotency(key="one", arguments=arguments), owner=owner()
    )
    created = world.service().create("shell", idempotency_key="one")
    assert created.id != halfway
    assert created.is_running
    assert world.stored(halfway).status is Status.ERROR


def test_waiting_call_creates_after_first_failed(world: World) -> None:
    """A call that waited for a creation that then failed creates the environment itself."""
    service = world.service()
    polled = Gate()

    def fail() -> None:
        world.script.at("after find_by_id", polled)
        second.append(pool.submit(service.create, "shell", idempotency_key="one"))
        polled.wait_until_reached()
        polled.open()
        raise ProviderError("fake", "no room")

    second: list[Any] = []
    world.script.at("halfway make", fail)
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(ProviderError):
            service.create("shell", idempotency_key="one")
        assert second[0].result(TIMEOUT_S).is_running


def test_cancelled_wait_leaves_first_creation_alone(world: World) -> None:
    """Cancelling a call that waits for another one ends only the wait."""
    service = world.service()
    gate = Gate()
    world.script.at("halfway make", gate)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(service.create, "shell", idempotency_key="one")
        gate.wait_until_reached()
        cancellation = Cancellation()
        world.script.at("after find_by_id", cancellation.request)
        with pytest.raises(CreationCancelledError):
            service.create("shell", idempotency_key="one", cancellation=cancellation)
        gate.open()
        assert first.result(TIMEOUT_S).is_running


def test_cancellation_of_repeated_call_destroys_nothing(world: World) -> None:
    """A call that found the environment of an earlier one never destroys it."""
    service = world.service()
    created = service.create("shell", idempotency_key="one")
    cancellation = Cancellation()
    assert service.create("shell", idempotency_key="one", cancellation=cancellation) == created
    cancellation.request()
    assert world.stored(created.id).is_running


def test_key_is_free_once_removal_begins(world: World) -> None:
    """From the beginning of a removal on, the same call creates a new environment."""
    service = world.service()
    created = service.create("shell", idempotency_key="one")
    again: list[Environment] = []
    world.script.at(
        "before remove", lambda: again.append(service.create("shell", idempotency_key="one"))
    )
    assert service.destroy(created.id)
    assert again[0].id != created.id
    assert world.store.find_all() == again


def test_repeated_call_counts_as_use(world: World) -> None:
    """The environment that a repeated call returns does not expire at once."""
    service = world.service()
    created = service.create("shell", idempotency_key="one")
    world.clock.advance(timedelta(minutes=29))
    found = service.create("shell", idempotency_key="one")
    assert found.last_used == created.last_used + timedelta(minutes=29)
    world.clock.advance(timedelta(minutes=29))
    assert service.sweep().expired == []


def test_repeated_call_returns_environment_in_error(world: World) -> None:
    """An environment that was created and lost its workspace later is still the first one."""
    service = world.service()
    created = service.create("shell", idempotency_key="one")
    world.provider.remove(created)
    assert service.reconcile().lost == [created.id]
    found = service.create("shell", idempotency_key="one")
    assert (found.id, found.status) == (created.id, Status.ERROR)


def test_digest_is_stable() -> None:
    """The digest stays the same in later versions, or a repeated call would be refused."""
    assert digest(Runtime.SHELL, None, None, None) == digest(Runtime.SHELL, None, None, {})
    assert digest(Runtime.SHELL, None, None, None) == "a62913658bca491a65435d7bdf95496b"
    full = digest(Runtime.PYTHON, "Größe", timedelta(minutes=5), {"b": "2", "a": "1"})
    assert full == digest(Runtime.PYTHON, "Größe", timedelta(seconds=300), {"a": "1", "b": "2"})
    assert full == "cbcc5fa1806a34e33d402db857224a26"
