# SPDX-License-Identifier: Apache-2.0
"""The capacity: the maximum number of live environments, also for concurrent creations."""

import threading
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.service.fakes import TIMEOUT_S, World, together
from tests.service.worker import run_worker
from waggle_fsstore import CapacityError, Environment, Status


def test_capacity_holds_for_threads(world: World) -> None:
    """Of 20 concurrent creations with a capacity of 10, 10 succeed and 10 raise CapacityError."""
    service = world.service(capacity=10)
    barrier = threading.Barrier(20)
    world.script.always("before create", lambda: barrier.wait(TIMEOUT_S))
    results = together(*[lambda: service.create("shell")] * 20)
    assert Counter(type(result) for result in results) == {Environment: 10, CapacityError: 10}
    live = world.store.find_all()
    assert {one.status for one in live} == {Status.RUNNING}
    assert {one.id for one in live} == world.provider.workspaces()
    assert len({one.ssh_port for one in live}) == 10


def test_capacity_holds_for_services_of_one_store(world: World) -> None:
    """Services of one process that share a store share its capacity."""
    services = [world.service(capacity=10) for _ in range(4)]
    results = together(*[lambda s=s: s.create("shell") for s in services * 5])
    assert Counter(type(result) for result in results) == {Environment: 10, CapacityError: 10}
    assert len({one.ssh_port for one in world.store.find_all()}) == 10


def test_capacity_holds_for_processes(file_world: World, tmp_path: Path) -> None:
    """Two processes that create 10 each create 10 in all, each with a port of its own."""
    with ExitStack() as stack:
        workers = [
            stack.enter_context(run_worker(tmp_path, "wait", "create", "10")) for _ in range(2)
        ]
        for worker in workers:
            worker.expect("ready")
        for worker in workers:
            worker.resume()
        lines = [line for worker in workers for line in worker.finish()]
    assert Counter(line.split()[0] for line in lines) == {"done": 10, "CapacityError": 10}
    live = file_world.store.find_all()
    assert {f"done {one.id}" for one in live} == {line for line in lines if " " in line}
    assert {one.status for one in live} == {Status.RUNNING}
    assert {one.id for one in live} == file_world.provider.workspaces()
    assert len({one.ssh_port for one in live}) == 10


def test_capacity_counts_creating_and_destroying(world: World) -> None:
    """Environments that are being created or destroyed count, those in error do not."""
    service = world.service(capacity=2)
    refusals: list[int] = []
    full = world.service(capacity=1)

    def try_to_create() -> None:
        refusals.append(1)
        with pytest.raises(CapacityError):
            full.create("shell")

    world.script.at("halfway make", try_to_create)
    created = service.create("shell")
    world.script.at("halfway remove", try_to_create)
    assert service.destroy(created.id)
    assert refusals == [1, 1]
    assert full.create("shell").is_running
