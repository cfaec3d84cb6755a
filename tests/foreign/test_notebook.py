# SPDX-License-Identifier: Apache-2.0
"""The tests of the project: the fixtures of waggle-fsstore beside those of other plugins."""

import asyncio
import fcntl
import multiprocessing
import os
import pickle
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import freezegun
import pytest
import time_machine
from notebook import write_note
from pyfakefs.fake_filesystem import FakeFilesystem

from waggle_fsstore import (
    Environment,
    FileStore,
    LockTimeoutError,
    MemoryStore,
    TransactionalRepository,
    open_service,
)
from waggle_fsstore.provider.process_groups import ProcessGroups

MakeEnvironment = Callable[..., Environment]

MOMENT = datetime(2031, 2, 3, 4, 5, 6, tzinfo=UTC)

FREEZERS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "freezegun": lambda: freezegun.freeze_time(MOMENT),
    "time_machine": lambda: time_machine.travel(MOMENT, tick=False),
}


@pytest.fixture(params=["file", "memory"])
def store(
    request: pytest.FixtureRequest, waggle_store: FileStore, waggle_memory_store: MemoryStore
) -> TransactionalRepository:
    return waggle_store if request.param == "file" else waggle_memory_store


@pytest.fixture(params=FREEZERS)
def _frozen(request: pytest.FixtureRequest) -> Iterator[None]:
    with FREEZERS[request.param]():
        yield


async def test_note_is_stored_and_removed(
    store: TransactionalRepository, make_environment: MakeEnvironment
) -> None:
    """From an event loop, concurrently, while another task watches."""
    names = [f"e{number}" for number in range(5)]
    for name in names:
        store.save(make_environment(id=name))
    events = store.watch(timeout=30)
    await asyncio.gather(*(write_note(store, name, "text") for name in names))
    assert {(await asyncio.to_thread(next, events)).environment_id for _ in names} == set(names)
    assert [found.labels["note"] for found in store.find_all()] == ["text"] * len(names)
    await write_note(store, "e0", "")
    assert "note" not in store.find_by_id("e0").labels


@pytest.mark.parametrize("number", range(8))
def test_each_test_has_an_empty_store(
    store: TransactionalRepository, make_environment: MakeEnvironment, number: int
) -> None:
    """In any order, in any process."""
    assert store.count() == 0
    store.save(make_environment(id="same", name=f"n{number}"))


@pytest.mark.usefixtures("_frozen")
def test_documents_and_events_have_the_frozen_time(
    store: TransactionalRepository, make_environment: MakeEnvironment
) -> None:
    """What a test freezes is what is stored."""
    store.save(make_environment(id="a"))
    store.update("a", Environment.touch)
    assert [event.at for event in store.history()] == [MOMENT] * 2
    assert store.find_by_id("a").last_used == MOMENT


@pytest.mark.usefixtures("_frozen")
def test_waits_end_in_frozen_time(
    store: TransactionalRepository, make_environment: MakeEnvironment
) -> None:
    """A watch without changes, and a listing."""
    store.save(make_environment(id="a"))
    assert list(store.watch(timeout=0.05)) == []
    assert [found.id for found in store.find_all()] == ["a"]


@pytest.mark.usefixtures("_frozen")
def test_wait_for_lock_ends_in_frozen_time(
    waggle_store: FileStore, make_environment: MakeEnvironment
) -> None:
    """A writer waits for another process no longer than its timeout."""
    waggle_store.save(make_environment(id="a"))
    with (
        (waggle_store.path / ".waggle" / "lock").open("rb+") as lock,
        FileStore(waggle_store.path, lock_timeout=0.05) as second,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(LockTimeoutError):
            second.save(make_environment(id="b"))


@pytest.mark.usefixtures("_frozen")
@pytest.mark.parametrize("program", ["exec sleep 1000", "trap '' TERM; sleep 1000 & wait; wait"])
def test_program_of_provider_is_stopped_in_frozen_time(tmp_path: Path, program: str) -> None:
    """A program that takes too long is stopped, even one that ignores SIGTERM."""
    with pytest.raises(subprocess.TimeoutExpired):
        ProcessGroups().run(
            ["/bin/sh", "-c", program], directory=str(tmp_path), path=os.defpath, timeout=0.05
        )


@pytest.mark.parametrize("freezer", FREEZERS)
def test_times_follow_moves(
    store: TransactionalRepository, make_environment: MakeEnvironment, freezer: str
) -> None:
    """The store is used before, in and after a frozen block."""
    store.save(make_environment(id="a"))
    with FREEZERS[freezer]():
        store.update("a", Environment.touch)
    store.update("a", Environment.touch)
    before, frozen, after = [event.at for event in store.history()]
    assert before <= after < frozen == MOMENT


@pytest.fixture
def precious(tmp_path: Path) -> Iterator[Path]:
    """Yield a real file, while many descriptors of it are open."""
    path = tmp_path / "precious"
    path.write_bytes(b"precious")
    files = [path.open("r+b") for _ in range(20)]
    yield path
    for file in files:
        file.close()


def test_simulated_files_are_refused(
    precious: Path, make_environment: MakeEnvironment, fs: FakeFilesystem
) -> None:
    """No real file is overwritten, and the error says what to do; a MemoryStore works."""
    with FileStore("/store") as store:
        with pytest.raises(OSError, match=r"simulated os\.open, such as that of pyfakefs"):
            store.save(make_environment(id="a"))
        assert store.count() == 0
    with MemoryStore() as memory:
        memory.save(make_environment(id="a"))
    fs.pause()
    assert precious.read_bytes() == b"precious"


def test_store_works_beside_paused_simulation(
    waggle_store: FileStore, make_environment: MakeEnvironment, fs: FakeFilesystem
) -> None:
    """A store that was in use before the simulation is unharmed after it."""
    fs.pause()
    waggle_store.save(make_environment(id="a"))
    fs.resume()
    with pytest.raises(Exception, match=r"simulated|gone|Bad file descriptor"):
        waggle_store.save(make_environment(id="b"))
    fs.pause()
    waggle_store.save(make_environment(id="c"))
    assert [found.id for found in waggle_store.find_all()] == ["a", "c"]
    assert list(waggle_store.check()) == []


def test_environment_is_created_without_sockets(waggle_store: FileStore) -> None:
    """The service gives out a port although nothing can check it."""
    with pytest.raises(Warning, match="tried to use socket"):
        socket.socket()
    service = open_service(waggle_store)
    created = service.create("shell")
    assert created.is_running
    assert created.ssh_port
    assert service.destroy(created.id)
    service.close()


def _save(store: FileStore, environment: Environment) -> int:
    with store:
        return store.save(environment)


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_store_is_handed_to_processes(
    waggle_store: FileStore, make_environment: MakeEnvironment, method: str
) -> None:
    """Its pickle is the path with the options, and the processes share the directory."""
    context: Any = multiprocessing.get_context(method)
    environments = [make_environment(id=f"e{number}") for number in range(4)]
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        revisions = list(pool.map(_save, [waggle_store] * 4, environments))
    assert sorted(revisions) == [1, 2, 3, 4]
    assert waggle_store.count() == 4


def test_memory_store_is_not_handed_to_processes(waggle_memory_store: MemoryStore) -> None:
    """The error says what to use instead."""
    with pytest.raises(TypeError, match="use a FileStore"):
        pickle.dumps(waggle_memory_store)
