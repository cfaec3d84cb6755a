# SPDX-License-Identifier: Apache-2.0
"""Sweeping: what was not used for too long goes, and nothing else."""

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.service.fakes import FolderProvider, Script, Step, World, failing
from tests.service.test_removal import store_one
from waggle_fsstore import EnvironmentService, MemoryStore, ProviderError, Status
from waggle_fsstore.service.touch_buffer import INTERVAL
from waggle_fsstore.testing import make_environment

MINUTE = timedelta(minutes=1)
INSTANT = timedelta.resolution


@pytest.mark.parametrize("status", [Status.RUNNING, Status.ERROR, Status.DESTROYED])
def test_only_after_its_timeout(world: World, status: Status) -> None:
    """It goes when it was idle for longer than its timeout and the time that a use may wait."""
    service = world.service()
    name = store_one(world, status=status, timeout=5 * MINUTE)
    world.clock.pass_by(5 * MINUTE + INTERVAL)
    assert not service.is_expired(world.stored(name))
    assert service.sweep().expired == []
    world.clock.pass_by(INSTANT)
    assert service.is_expired(world.stored(name))
    assert service.sweep().expired == [name]
    assert not world.is_there(name)


def test_the_history_tells_why(world: World) -> None:
    """The reaper says for how long it was idle, and how long it might have been."""
    service = world.service()
    name = service.create("shell", timeout=5 * MINUTE).id
    world.clock.pass_by(6 * MINUTE + timedelta(milliseconds=1))
    service.sweep()
    assert world.story(name)[2:] == [
        Step("updated", "destroying", "reaper", "idle 6m0s > 5m0s"),
        Step("deleted", None, "reaper", "idle 6m0s > 5m0s"),
    ]


def test_what_is_used_stays(world: World) -> None:
    """Each use puts it off by the whole timeout, whether or not it is stored yet."""
    service = world.service()
    name = service.create("shell", timeout=5 * MINUTE).id
    for _ in range(10):
        world.clock.pass_by(5 * MINUTE)
        service.touch(name)
        assert service.sweep().expired == []
    world.clock.pass_by(5 * MINUTE + INTERVAL + INSTANT)
    assert service.sweep().expired == [name]


@pytest.mark.parametrize("timeout", [timedelta(0), -MINUTE])
def test_what_never_expires(world: World, timeout: timedelta) -> None:
    """A timeout of zero or less is none."""
    service = world.service()
    name = store_one(world, status=Status.RUNNING, timeout=timeout)
    world.clock.pass_by(timedelta(days=1_000))
    assert service.sweep().expired == []
    assert world.stored(name).is_running


@pytest.mark.parametrize("by", ["another service", "this one"])
def test_used_at_the_last_moment(world: World, by: str) -> None:
    """A use between the look and the step that marks it keeps it."""
    service = world.service()
    name = service.create("shell", timeout=5 * MINUTE).id
    world.clock.pass_by(6 * MINUTE)

    def use() -> None:
        if by == "this one":
            service.touch(name)
        else:
            world.store.real.update(name, lambda one: one.touch(world.clock.now()))

    world.script.at("before update", use)
    result = service.sweep()
    assert result.expired == result.problems == []
    assert world.stored(name).is_running
    assert world.provider.workspaces() == {name}


def test_time_before_the_start(world: World) -> None:
    """While no service ran nothing could be used: only time since the start counts."""
    name = world.service().create("shell", timeout=5 * MINUTE).id
    world.clock.time += timedelta(days=1)
    world.clock.seconds = 3.0  # Since a reboot.
    service = world.service()
    assert service.idle_time(world.stored(name)) == timedelta(0)
    assert service.sweep().expired == []
    world.clock.pass_by(5 * MINUTE + INTERVAL)
    assert service.sweep().expired == []
    world.clock.pass_by(INSTANT)
    assert service.sweep().expired == [name]


def test_time_that_jumps(world: World) -> None:
    """A clock that was set, or a night's sleep of the machine, makes nothing expire."""
    service = world.service()
    name = service.create("shell", timeout=5 * MINUTE).id
    world.clock.time += timedelta(days=1)
    assert service.sweep().expired == []
    world.clock.time -= timedelta(days=2)
    assert service.idle_time(world.stored(name)) == timedelta(0)
    assert service.sweep().expired == []


def test_a_clock_that_is_set_forward(world: World) -> None:
    """What was used a second ago was not idle for an hour, however long the service runs."""
    service = world.service()
    world.clock.pass_by(60 * MINUTE)
    service.sweep()
    name = service.create("shell", timeout=5 * MINUTE).id
    other = service.create("shell", timeout=5 * MINUTE).id
    world.clock.pass_by(4 * MINUTE)
    service.touch(other)
    world.clock.time += 60 * MINUTE
    assert service.sweep().expired == []
    world.clock.pass_by(MINUTE + INTERVAL + INSTANT)
    assert service.sweep().expired == [name]
    world.clock.pass_by(4 * MINUTE)
    assert service.sweep().expired == [other]


def test_a_clock_that_is_set_back(world: World) -> None:
    """A use counts, and so does time without one."""
    service = world.service()
    name = service.create("shell", timeout=5 * MINUTE).id
    service.sweep()
    world.clock.time -= 60 * MINUTE
    world.clock.pass_by(4 * MINUTE)
    service.touch(name)
    service.close()
    world.provider.is_closed = False
    assert world.stored(name).last_used == world.clock.now()
    world.clock.pass_by(4 * MINUTE)
    assert service.sweep().expired == []
    world.clock.pass_by(MINUTE + INTERVAL + INSTANT)
    assert service.sweep().expired == [name]


def test_a_process_that_was_stopped(world: World) -> None:
    """While it was stopped nobody could use anything: of that time little counts."""
    service = world.service(keeps_time=True)
    service.keep_time(MINUTE)
    name = service.create("shell", timeout=5 * MINUTE).id
    world.clock.pass_by(60 * MINUTE)
    assert service.sweep().expired == []
    assert service.idle_time(world.stored(name)) == MINUTE + INTERVAL
    for _ in range(4):
        assert service.sweep().expired == []
        world.clock.pass_by(MINUTE)
    world.clock.pass_by(INSTANT)
    assert service.sweep().expired == [name]


@pytest.mark.parametrize("is_new", [True, False])
def test_time_without_the_provider(world: World, is_new: bool) -> None:
    """While its disk is not mounted nobody can use anything, and nothing expires after that."""
    name = world.service().create("shell", timeout=5 * MINUTE).id
    service = world.service()
    world.script.always("before check", failing(ProviderError("fake", "not mounted")))
    for _ in range(2):
        world.clock.pass_by(60 * MINUTE)
        result = service.reconcile() if is_new else service.sweep()
        assert (result.expired, result.problems) == ([], ["workspaces: not mounted"])
        assert not result.is_complete
    world.script.forget()
    world.clock.pass_by(5 * MINUTE + INTERVAL)
    assert service.sweep().expired == []
    world.clock.pass_by(INSTANT)
    assert service.sweep().expired == [name]


def test_what_is_in_the_middle(world: World) -> None:
    """What is being created or destroyed is not idle, however long it takes."""
    service = world.service()
    swept: list[list[str]] = []

    def sweep() -> None:
        world.clock.pass_by(60 * MINUTE)
        result = service.sweep()
        swept.append(result.expired + result.failed + result.finished + result.problems)

    world.script.at("halfway make", sweep)
    name = service.create("shell").id
    world.script.at("halfway remove", sweep)
    assert service.destroy(name)
    assert swept == [[], []]


def test_failures(world: World) -> None:
    """One that cannot be removed keeps no other one, and is tried again."""
    service = world.service()
    names = sorted(service.create("shell").id for _ in range(3))
    world.clock.pass_by(60 * MINUTE)
    world.script.at("before remove", failing(ProviderError("fake", "in use")), nth=2)
    result = service.sweep()
    assert result.expired == [names[0], names[2]]
    assert result.problems == [f"environment {names[1]}: in use"]
    assert service.sweep().finished == [names[1]]
    assert world.store.find_all() == []


def test_of_another_provider(world: World) -> None:
    """Nothing is done to it, and that is told."""
    other = FolderProvider(world.provider.root / "other", world.script, name="other")
    created = world.service(provider=other).create("shell")
    service = world.service()
    world.clock.pass_by(60 * MINUTE)
    result = service.sweep()
    assert result.expired == []
    assert result.problems == [
        f"environment {created.id}: it was made by 'other', which is not here"
    ]
    assert world.stored(created.id) == created


def test_asked_to_stop(world: World) -> None:
    """It stops before the next one."""
    service = world.service()
    names = sorted(service.create("shell").id for _ in range(3))
    world.clock.pass_by(60 * MINUTE)
    answers = iter([False, True])
    assert service.sweep(is_stopping=lambda: next(answers)).expired == names[:1]
    assert len(world.store.find_all()) == 2


@given(
    idle=st.timedeltas(timedelta(0), timedelta(hours=2)),
    running=st.timedeltas(timedelta(0), timedelta(hours=2)),
    timeout=st.timedeltas(-MINUTE, timedelta(hours=1)),
)
def test_the_rule(idle: timedelta, running: timedelta, timeout: timedelta) -> None:
    """Expired is what was idle, in time that the service ran, for longer than it may be."""
    environment = make_environment(timeout=timeout)
    clock = [0.0]
    now = environment.last_used + idle
    service = EnvironmentService(
        MemoryStore(),
        FolderProvider(Path("nowhere"), Script()),
        now=lambda: now,
        uptime=lambda: clock[0],
    )
    clock[0] = running.total_seconds()
    expected = timeout > timedelta(0) and idle - INTERVAL > timeout and running - INTERVAL > timeout
    assert service.is_expired(environment) == expected
