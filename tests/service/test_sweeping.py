# SPDX-License-Identifier: Apache-2.0
"""Sweeping: environments that were idle for too long are removed, and no others."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.service.fakes import (
    MINUTE,
    DirectoryProvider,
    EventSummary,
    Script,
    World,
    failing,
    owner,
)
from waggle_fsstore import EnvironmentService, MemoryStore, Owner, ProviderError, Status
from waggle_fsstore.service.touch_buffer import FLUSH_INTERVAL
from waggle_fsstore.testing import make_environment

TICK = timedelta.resolution


@pytest.mark.parametrize("status", [Status.RUNNING, Status.ERROR, Status.DESTROYED])
def test_environment_expires_after_timeout_and_flush_interval(world: World, status: Status) -> None:
    """It expires when idle for longer than its timeout plus the interval of flushes."""
    service = world.service()
    name = world.store_environment(status=status, timeout=5 * MINUTE)
    world.clock.advance(5 * MINUTE + FLUSH_INTERVAL)
    assert not service.is_expired(world.stored(name))
    assert service.sweep().expired == []
    world.clock.advance(TICK)
    assert service.is_expired(world.stored(name))
    assert service.sweep().expired == [name]
    assert not world.exists(name)


def test_history_has_idle_time_and_timeout(world: World) -> None:
    """The reason of the reaper has the idle time and the timeout."""
    service = world.service()
    name = service.create("shell", timeout=5 * MINUTE).id
    world.clock.advance(6 * MINUTE + timedelta(milliseconds=1))
    service.sweep()
    assert world.events_of(name)[2:] == [
        EventSummary("updated", "destroying", "reaper", "idle 6m0s > 5m0s"),
        EventSummary("deleted", None, "reaper", "idle 6m0s > 5m0s"),
    ]


def test_use_restarts_idle_time(world: World) -> None:
    """Each use restarts the whole timeout, whether or not it is stored yet."""
    service = world.service()
    name = service.create("shell", timeout=5 * MINUTE).id
    for _ in range(10):
        world.clock.advance(5 * MINUTE)
        service.touch(name)
        assert service.sweep().expired == []
    world.clock.advance(5 * MINUTE + FLUSH_INTERVAL + TICK)
    assert service.sweep().expired == [name]


@pytest.mark.parametrize("timeout", [timedelta(0), -MINUTE])
def test_timeout_of_zero_or_less_never_expires(world: World, timeout: timedelta) -> None:
    """A timeout of zero or less means none."""
    service = world.service()
    name = world.store_environment(status=Status.RUNNING, timeout=timeout)
    world.clock.advance(timedelta(days=1_000))
    assert service.sweep().expired == []
    assert world.stored(name).is_running


@pytest.mark.parametrize("by", ["another service", "this one"])
def test_use_before_removal_keeps_environment(world: World, by: str) -> None:
    """A use between the check and the change to destroying keeps the environment."""
    service = world.service()
    name = service.create("shell", timeout=5 * MINUTE).id
    world.clock.advance(5 * MINUTE + FLUSH_INTERVAL + TICK)

    def use() -> None:
        if by == "this one":
            service.touch(name)
        else:
            world.real_store.update(name, lambda one: one.touch(world.clock.now()))

    world.script.at("before update", use)
    result = service.sweep()
    assert result.expired == result.problems == []
    assert world.stored(name).is_running
    assert world.provider.workspaces() == {name}


def test_time_before_start_is_not_idle_time(world: World) -> None:
    """Only time since the service began counts, because nothing could be used before."""
    name = world.service().create("shell", timeout=5 * MINUTE).id
    world.clock.time += timedelta(days=1)
    world.clock.seconds = 3.0  # Since a reboot.
    service = world.service()
    assert service.idle_time(world.stored(name)) == timedelta(0)
    assert service.sweep().expired == []
    world.clock.advance(5 * MINUTE + FLUSH_INTERVAL)
    assert service.sweep().expired == []
    world.clock.advance(TICK)
    assert service.sweep().expired == [name]


def test_clock_jump_expires_nothing(world: World) -> None:
    """Neither a change of the system clock nor a suspended machine makes anything expire."""
    service = world.service()
    name = service.create("shell", timeout=5 * MINUTE).id
    world.clock.time += timedelta(days=1)
    assert service.sweep().expired == []
    world.clock.time -= timedelta(days=2)
    assert service.idle_time(world.stored(name)) == timedelta(0)
    assert service.sweep().expired == []


def test_clock_set_forward_adds_no_idle_time(world: World) -> None:
    """An environment used a second ago is not idle for an hour, however long the service runs."""
    service = world.service()
    world.clock.advance(60 * MINUTE)
    service.sweep()
    name = service.create("shell", timeout=5 * MINUTE).id
    other = service.create("shell", timeout=5 * MINUTE).id
    world.clock.advance(4 * MINUTE)
    service.touch(other)
    world.clock.time += 60 * MINUTE
    assert service.sweep().expired == []
    world.clock.advance(MINUTE + FLUSH_INTERVAL + TICK)
    assert service.sweep().expired == [name]
    world.clock.advance(4 * MINUTE)
    assert service.sweep().expired == [other]


def test_clock_set_back_keeps_uses_and_idle_time(world: World) -> None:
    """After the clock was set back, a use counts, and so does time without one."""
    service = world.service()
    name = service.create("shell", timeout=5 * MINUTE).id
    service.sweep()
    world.clock.time -= 60 * MINUTE
    world.clock.advance(4 * MINUTE)
    service.touch(name)
    service.close()
    world.provider.is_closed = False
    assert world.stored(name).last_used == world.clock.now()
    world.clock.advance(4 * MINUTE)
    assert service.sweep().expired == []
    world.clock.advance(MINUTE + FLUSH_INTERVAL + TICK)
    assert service.sweep().expired == [name]


def test_suspended_process_adds_little_idle_time(world: World) -> None:
    """Of the time in which the process was suspended, at most one interval counts."""
    service = world.service(ticks=True)
    service.tick(MINUTE)
    name = service.create("shell", timeout=5 * MINUTE).id
    world.clock.advance(60 * MINUTE)
    assert service.sweep().expired == []
    assert service.idle_time(world.stored(name)) == MINUTE + FLUSH_INTERVAL
    for _ in range(4):
        assert service.sweep().expired == []
        world.clock.advance(MINUTE)
    world.clock.advance(TICK)
    assert service.sweep().expired == [name]


@pytest.mark.parametrize("is_new", [True, False])
def test_time_without_provider_is_not_idle_time(world: World, is_new: bool) -> None:
    """While the provider fails nothing can be used, and nothing expires right after that."""
    name = world.service().create("shell", timeout=5 * MINUTE).id
    service = world.service()
    world.script.always("before check", failing(ProviderError("fake", "not mounted")))
    for _ in range(2):
        world.clock.advance(60 * MINUTE)
        result = service.reconcile() if is_new else service.sweep()
        assert (result.expired, result.problems) == ([], ["workspaces: not mounted"])
        assert not result.is_complete
    world.script.reset()
    world.clock.advance(5 * MINUTE + FLUSH_INTERVAL)
    assert service.sweep().expired == []
    world.clock.advance(TICK)
    assert service.sweep().expired == [name]


def test_environment_in_progress_does_not_expire(world: World) -> None:
    """An environment that is being created or destroyed is not idle, however long it takes."""
    service = world.service()
    swept: list[list[str]] = []

    def sweep() -> None:
        world.clock.advance(60 * MINUTE)
        result = service.sweep()
        swept.append(result.expired + result.failed + result.finished + result.problems)

    world.script.at("halfway make", sweep)
    name = service.create("shell").id
    world.script.at("halfway remove", sweep)
    assert service.destroy(name)
    assert swept == [[], []]


def test_failed_removal_does_not_stop_sweep(world: World) -> None:
    """An environment that cannot be removed stops no other, and is retried."""
    service = world.service()
    names = sorted(service.create("shell").id for _ in range(3))
    world.clock.advance(60 * MINUTE)
    world.script.at("before remove", failing(ProviderError("fake", "in use")), nth=2)
    result = service.sweep()
    assert result.expired == [names[0], names[2]]
    assert result.problems == [f"environment {names[1]}: in use"]
    assert service.sweep().finished == [names[1]]
    assert world.store.find_all() == []


def test_environment_of_another_provider_is_kept(world: World) -> None:
    """It stays unchanged, and is reported as a problem."""
    other = DirectoryProvider(world.provider.root / "other", world.script, name="other")
    created = world.service(provider=other).create("shell")
    service = world.service()
    world.clock.advance(60 * MINUTE)
    result = service.sweep()
    assert result.expired == []
    [problem] = result.problems
    reason = "the environment belongs to provider 'other'; this server uses 'fake'"
    assert problem == f"environment {created.id}: {reason}"
    assert world.stored(created.id) == created


def test_sweep_stops_before_next_environment(world: World) -> None:
    """A sweep that is to stop ends before the next environment."""
    service = world.service()
    names = sorted(service.create("shell").id for _ in range(3))
    world.clock.advance(60 * MINUTE)
    answers = iter([False, True])
    assert service.sweep(is_stopping=lambda: next(answers)).expired == names[:1]
    assert len(world.store.find_all()) == 2


@given(
    idle=st.timedeltas(timedelta(0), timedelta(hours=2)),
    running=st.timedeltas(timedelta(0), timedelta(hours=2)),
    timeout=st.timedeltas(-MINUTE, timedelta(hours=1)),
)
def test_expiry_needs_idle_time_while_running(
    idle: timedelta, running: timedelta, timeout: timedelta
) -> None:
    """An environment expires if it was idle for too long, in time that the service ran."""
    environment = make_environment(timeout=timeout)
    clock = [0.0]
    now = environment.last_used + idle
    service = EnvironmentService(
        MemoryStore(),
        DirectoryProvider(Path("nowhere"), Script()),
        now=lambda: now,
        uptime=lambda: clock[0],
    )
    clock[0] = running.total_seconds()
    expected = (
        timeout > timedelta(0)
        and idle - FLUSH_INTERVAL > timeout
        and running - FLUSH_INTERVAL > timeout
    )
    assert service.is_expired(environment) == expected


@pytest.mark.parametrize("status", [Status.CREATING, Status.DESTROYING])
@pytest.mark.parametrize("fields", [{"host": "another"}, {"pid_namespace": 1}], ids=str)
def test_unseen_work_of_another_container_expires(
    world: World, status: Status, fields: dict[str, Any]
) -> None:
    """What a container left halfway that never comes back is removed after an hour."""
    service = world.service(takeover_after=0)
    halfway = world.store_environment(status=status, owner=owner(**fields))
    for _ in range(6):
        assert service.sweep().expired == []
        world.clock.advance(10 * MINUTE)
    assert world.stored(halfway).status is status
    world.clock.advance(MINUTE)
    assert service.sweep().expired == [halfway]
    assert not world.exists(halfway)


def test_work_of_live_process_does_not_expire(world: World, live_owner: Owner) -> None:
    """What a process of this container works on is left to it, however long that takes."""
    service = world.service(takeover_after=0)
    for status in (Status.CREATING, Status.DESTROYING):
        world.store_environment(status=status, owner=live_owner)
    for _ in range(10):
        assert service.sweep().expired == []
        world.clock.advance(30 * MINUTE)
    assert world.store.count() == 2
