# SPDX-License-Identifier: Apache-2.0
"""No more live environments than allowed, however many are asked for at once."""

import threading
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.service.fakes import LONG, World, together
from tests.service.worker import started
from waggle_fsstore import CapacityError, Environment, Status


def test_many_threads(world: World) -> None:
    """Of 20 that are created at once, 10 come to be, and 10 are told that there is no room."""
    service = world.service(capacity=10)
    barrier = threading.Barrier(20)
    world.script.always("before create", lambda: barrier.wait(LONG))
    results = together(*[lambda: service.create("shell")] * 20)
    assert Counter(type(result) for result in results) == {Environment: 10, CapacityError: 10}
    live = world.store.find_all()
    assert {one.status for one in live} == {Status.RUNNING}
    assert {one.id for one in live} == world.provider.workspaces()
    assert len({one.ssh_port for one in live}) == 10


def test_several_services(world: World) -> None:
    """Services of one process that share a store share its room."""
    services = [world.service(capacity=10) for _ in range(4)]
    results = together(*[lambda s=s: s.create("shell") for s in services * 5])
    assert Counter(type(result) for result in results) == {Environment: 10, CapacityError: 10}
    assert len({one.ssh_port for one in world.store.find_all()}) == 10


def test_several_processes(file_world: World, tmp_path: Path) -> None:
    """Two processes that create 10 each make 10 together, and no two with the same port."""
    with ExitStack() as stack:
        workers = [stack.enter_context(started(tmp_path, "wait", "create", "10")) for _ in range(2)]
        for worker in workers:
            worker.expect("ready")
        for worker in workers:
            worker.go_on()
        said = [line for worker in workers for line in worker.end()]
    assert Counter(line.split()[0] for line in said) == {"done": 10, "CapacityError": 10}
    live = file_world.store.find_all()
    assert {f"done {one.id}" for one in live} == {line for line in said if " " in line}
    assert {one.status for one in live} == {Status.RUNNING}
    assert {one.id for one in live} == file_world.provider.workspaces()
    assert len({one.ssh_port for one in live}) == 10


def test_what_takes_room(world: World) -> None:
    """What is being created or destroyed counts, what is in error does not."""
    service = world.service(capacity=2)
    seen: list[int] = []
    full = world.service(capacity=1)

    def try_beside() -> None:
        seen.append(1)
        with pytest.raises(CapacityError):
            full.create("shell")

    world.script.at("halfway make", try_beside)
    created = service.create("shell")
    world.script.at("halfway remove", try_beside)
    assert service.destroy(created.id)
    assert seen == [1, 1]
    assert full.create("shell").is_running
