# SPDX-License-Identifier: Apache-2.0
"""What is destroyed while it is used does not come back, neither its record nor its workspace."""

import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from tests.service.fakes import LONG, World, together
from tests.service.worker import started
from waggle_fsstore import (
    Environment,
    EnvironmentNotFoundError,
    EnvironmentNotRunningError,
    EnvironmentService,
    Reconciliation,
    Runtime,
)

ROUNDS = 200
SECOND = timedelta(seconds=1)

Use = Callable[[EnvironmentService, str], object]


def touch(service: EnvironmentService, name: str) -> None:
    service.touch(name)
    service._touches.flush()


USES: dict[str, Use] = {
    "touch": touch,
    "probe": lambda service, name: service.probe(name),
}


def use(service: EnvironmentService, name: str, way: str) -> bool:
    """Whether it could be used; if not, it is gone or going."""
    try:
        USES[way](service, name)
    except (EnvironmentNotFoundError, EnvironmentNotRunningError):
        return False
    return True


@pytest.mark.parametrize("way", USES)
def test_destroy_and_use(world: World, way: str) -> None:
    """200 times at once in threads, each: no record and no workspace is left."""
    service = world.service()
    for _ in range(ROUNDS):
        name = service.create("shell").id
        world.clock.pass_by(SECOND)
        results = together(partial(service.destroy, name), partial(use, service, name, way))
        assert not [result for result in results if isinstance(result, Exception)]
        assert not world.is_there(name)
    assert world.store.find_all() == []


@pytest.mark.parametrize("way", USES)
@pytest.mark.parametrize("point", ["after update", "after remove", "after delete"])
def test_a_use_that_is_late(world: World, way: str, point: str) -> None:
    """What looked before the environment was destroyed stores nothing after that."""
    service = world.service()
    name = service.create("shell").id
    world.clock.pass_by(SECOND)
    world.script.forget()
    late = threading.Event()
    gone = threading.Event()

    def wait() -> None:
        if not late.is_set():
            late.set()
            assert gone.wait(LONG)

    for call in ("update", "save"):
        world.script.at(f"before {call}", wait)

    def destroy() -> bool:
        assert late.wait(LONG)
        world.script.at(point, gone.set)
        return service.destroy(name)

    together(destroy, lambda: use(service, name, way))
    assert not world.is_there(name)
    assert [step.status for step in world.story(name)][-2:] == ["destroying", None]


def test_two_processes(file_world: World, tmp_path: Path) -> None:
    """Another process destroys what this one goes on touching and probing."""
    service = file_world.service()
    names = [service.create("shell").id for _ in range(10)]
    verbs = [word for name in names for word in ("destroy", name)]
    with started(tmp_path, "wait", *verbs) as worker:
        worker.expect("ready")
        worker.go_on()
        left = set(names)
        while left:
            file_world.clock.pass_by(SECOND)
            for name in sorted(left):
                if not all(use(service, name, way) for way in USES):
                    left.discard(name)
        assert worker.end() == [f"done {name}" for name in names]
    assert file_world.store.find_all() == []
    assert file_world.provider.workspaces() == set()
    for name in names:
        assert [step.kind for step in file_world.story(name)][-1] == "deleted"


def test_destroy_and_sweep(world: World) -> None:
    """A sweep beside somebody who destroys the same does no harm, and finds no problem."""
    service = world.service()
    for _ in range(30):
        name = service.create("shell").id
        world.clock.pass_by(timedelta(hours=1))
        calls: list[Callable[[], object]] = [partial(service.destroy, name), service.sweep]
        destroyed, swept = together(*calls)
        assert isinstance(swept, Reconciliation)
        assert swept.problems == []
        assert destroyed is True or isinstance(destroyed, EnvironmentNotFoundError)
        assert not world.is_there(name)


def test_create_and_destroy_all_the_time(world: World) -> None:
    """Four threads that create, use and destroy leave nothing, and disturb nobody."""
    service = world.service(capacity=4)

    def live() -> int:
        for _ in range(10):
            name = service.create(Runtime.SHELL).id
            assert service.probe(name).is_running
            touch(service, name)
            assert service.destroy(name)
        return 1

    assert together(*[live] * 4) == [1] * 4
    assert world.store.find_all() == []
    assert world.provider.workspaces() == set()
    assert all(isinstance(event.environment, Environment) for event in world.store.history())


def test_a_probe_that_is_late(world: World) -> None:
    """The workspace is gone because it was destroyed, and that is what the error says."""
    service = world.service()
    name = service.create("shell").id
    world.script.at("before probe", lambda: service.destroy(name))
    with pytest.raises(EnvironmentNotFoundError):
        service.probe(name)
