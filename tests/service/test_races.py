# SPDX-License-Identifier: Apache-2.0
"""Races of destroying with other calls: neither the record nor the workspace comes back."""

import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from tests.service.fakes import SECOND, TIMEOUT_S, World, together
from tests.service.worker import run_worker
from waggle_fsstore import (
    Environment,
    EnvironmentNotFoundError,
    EnvironmentNotRunningError,
    EnvironmentService,
    Reconciliation,
    Runtime,
)

ROUNDS = 200

Use = Callable[[EnvironmentService, str], object]


def touch(service: EnvironmentService, name: str) -> None:
    service.touch(name)
    service._touch_buffer.flush()


USES: dict[str, Use] = {"touch": touch, "probe": lambda service, name: service.probe(name)}


def use(service: EnvironmentService, name: str, way: str) -> bool:
    """Use an environment, and return false if it is destroyed or being destroyed."""
    try:
        USES[way](service, name)
    except (EnvironmentNotFoundError, EnvironmentNotRunningError):
        return False
    return True


@pytest.mark.parametrize("way", USES)
def test_destroy_wins_over_concurrent_use(world: World, way: str) -> None:
    """In 200 rounds of destroying and using at once, no record and no workspace is left."""
    service = world.service()
    for _ in range(ROUNDS):
        name = service.create("shell").id
        world.clock.advance(SECOND)
        results = together(partial(service.destroy, name), partial(use, service, name, way))
        assert not [result for result in results if isinstance(result, Exception)]
        assert not world.exists(name)
    assert world.store.find_all() == []


@pytest.mark.parametrize("way", USES)
@pytest.mark.parametrize("point", ["after update", "after remove", "after delete"])
def test_late_use_stores_nothing(world: World, way: str, point: str) -> None:
    """A use that began before the environment was destroyed stores nothing after that."""
    service = world.service()
    name = service.create("shell").id
    world.clock.advance(SECOND)
    world.script.reset()
    late = threading.Event()
    gone = threading.Event()

    def wait() -> None:
        if not late.is_set():
            late.set()
            assert gone.wait(TIMEOUT_S)

    for call in ("update", "save"):
        world.script.at(f"before {call}", wait)

    def destroy() -> bool:
        assert late.wait(TIMEOUT_S)
        world.script.at(point, gone.set)
        return service.destroy(name)

    together(destroy, lambda: use(service, name, way))
    assert not world.exists(name)
    assert [step.status for step in world.events_of(name)][-2:] == ["destroying", None]


def test_destroy_by_process_wins_over_use(file_world: World, tmp_path: Path) -> None:
    """Another process destroys what this one keeps touching and probing."""
    service = file_world.service()
    names = [service.create("shell").id for _ in range(10)]
    verbs = [word for name in names for word in ("destroy", name)]
    with run_worker(tmp_path, "wait", *verbs) as worker:
        worker.expect("ready")
        worker.resume()
        left = set(names)
        while left:
            file_world.clock.advance(SECOND)
            for name in sorted(left):
                if not all(use(service, name, way) for way in USES):
                    left.discard(name)
        assert worker.finish() == [f"done {name}" for name in names]
    assert file_world.store.find_all() == []
    assert file_world.provider.workspaces() == set()
    for name in names:
        assert [step.kind for step in file_world.events_of(name)][-1] == "deleted"


def test_destroy_and_sweep_do_not_conflict(world: World) -> None:
    """A sweep concurrent with a destroy of the same environment reports no problem."""
    service = world.service()
    for _ in range(30):
        name = service.create("shell").id
        world.clock.advance(timedelta(hours=1))
        calls: list[Callable[[], object]] = [partial(service.destroy, name), service.sweep]
        destroyed, swept = together(*calls)
        assert isinstance(swept, Reconciliation)
        assert swept.problems == []
        assert destroyed is True or isinstance(destroyed, EnvironmentNotFoundError)
        assert not world.exists(name)


def test_concurrent_lives_leave_nothing(world: World) -> None:
    """Four threads that create, use and destroy leave nothing, and do not disturb each other."""
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


def test_probe_of_destroyed_environment_raises_not_found(world: World) -> None:
    """If the workspace is gone because the environment was destroyed, the error says so."""
    service = world.service()
    name = service.create("shell").id
    world.script.at("before probe", lambda: service.destroy(name))
    with pytest.raises(EnvironmentNotFoundError):
        service.probe(name)
