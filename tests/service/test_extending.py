# SPDX-License-Identifier: Apache-2.0
"""Idle timeouts: changed while an environment runs, and limited by the operator."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from tests.service.fakes import MINUTE, EventSummary, World
from waggle_fsstore import (
    EnvironmentNotFoundError,
    EnvironmentNotRunningError,
    InvalidEnvironmentError,
    Status,
    audit,
)
from waggle_fsstore.domain.environment import MAX_TIMEOUT
from waggle_fsstore.service.touch_buffer import FLUSH_INTERVAL

TICK = timedelta.resolution
NEVER = timedelta(0)


def test_extend_changes_timeout_and_restarts_idle_time(world: World) -> None:
    """From now on the environment has the whole of its new timeout."""
    service = world.service()
    name = service.create("shell", timeout=5 * MINUTE).id
    world.clock.advance(5 * MINUTE)
    service.sweep()
    extended = service.extend(name, 10 * MINUTE)
    assert extended == world.stored(name)
    assert (extended.timeout, extended.last_used) == (10 * MINUTE, world.clock.now())
    assert service.idle_time(extended) == timedelta(0)
    world.clock.advance(10 * MINUTE + FLUSH_INTERVAL)
    assert service.sweep().expired == []
    world.clock.advance(TICK)
    assert service.sweep().expired == [name]


def test_extend_is_seen_by_other_service(world: World) -> None:
    """The server that sweeps may be another process than the one that extends."""
    service, sweeping = world.service(), world.service()
    name = service.create("shell", timeout=5 * MINUTE).id
    world.clock.advance(5 * MINUTE)
    sweeping.sweep()
    service.extend(name, 10 * MINUTE)
    world.clock.advance(10 * MINUTE + FLUSH_INTERVAL)
    assert sweeping.sweep().expired == []
    world.clock.advance(TICK)
    assert sweeping.sweep().expired == [name]


@pytest.mark.parametrize(
    ("timeout", "text"), [(7 * MINUTE, "7m0s"), (90 * MINUTE, "1h30m0s"), (NEVER, "never")]
)
def test_extend_is_recorded_with_actor(world: World, timeout: timedelta, text: str) -> None:
    """The history says who changed the timeout, and what it is."""
    service = world.service(max_timeout=NEVER)
    name = service.create("shell").id
    with audit(actor="mcp:claude"):
        service.extend(name, timeout)
    assert world.events_of(name)[2:] == [
        EventSummary("updated", "running", "mcp:claude", f"its timeout is {text} now")
    ]


def test_extended_use_is_not_set_back_by_earlier_one(world: World) -> None:
    """A use that is stored after the extension leaves the later time as it is."""
    service = world.service()
    name = service.create("shell").id
    world.clock.advance(MINUTE)
    service.touch(name)
    world.clock.advance(MINUTE / 2)
    service.extend(name, 10 * MINUTE)
    world.touches.flush()
    assert world.stored(name).last_used == world.clock.now()
    assert world.stored(name).timeout == 10 * MINUTE


@pytest.mark.parametrize("status", [Status.CREATING, Status.ERROR, Status.DESTROYING])
def test_extend_needs_running_environment(world: World, status: Status) -> None:
    """Any other status is refused, and nothing is changed."""
    service = world.service()
    name = world.store_environment(status=status)
    before = world.stored(name)
    with pytest.raises(EnvironmentNotRunningError):
        service.extend(name, 10 * MINUTE)
    assert world.stored(name) == before
    with pytest.raises(EnvironmentNotFoundError):
        service.extend("missing", 10 * MINUTE)


def test_never_does_not_expire(world: World) -> None:
    """An environment without a timeout is kept, however long it is idle, until it has one."""
    service = world.service(max_timeout=NEVER)
    created = service.create("shell", timeout=NEVER).id
    extended = service.create("shell", timeout=5 * MINUTE).id
    assert service.extend(extended, NEVER).timeout == NEVER
    assert service.time_left(world.stored(created)) is None
    world.clock.advance(timedelta(days=1_000))
    assert service.sweep().expired == []
    service.extend(created, 5 * MINUTE)
    world.clock.advance(6 * MINUTE + TICK)
    assert service.sweep().expired == [created]


@pytest.mark.parametrize(
    ("longest", "timeout", "reason"),
    [
        (60 * MINUTE, 60 * MINUTE + TICK, "is above the maximum, 1h0m0s"),
        (60 * MINUTE, NEVER, "never is above the maximum, 1h0m0s"),
        (24 * 60 * MINUTE, 25 * 60 * MINUTE, "25h0m0s is above the maximum, 24h0m0s"),
        (5 * MINUTE, 6 * MINUTE, "6m0s is above the maximum, 5m0s"),
        (60 * MINUTE, -TICK, "is below zero"),
        (NEVER, -TICK, "is below zero"),
        (NEVER, MAX_TIMEOUT + TICK, "is more than a century"),
    ],
    ids=["by a tick", "never", "too long", "below default", "negative", "any", "a century"],
)
def test_timeout_above_maximum_is_refused(
    world: World, longest: timedelta, timeout: timedelta, reason: str
) -> None:
    """The error names the maximum, and nothing is stored."""
    service = world.service(default_timeout=MINUTE, max_timeout=longest)
    name = service.create("shell").id
    choices: list[Callable[[], object]] = [
        lambda: service.create("shell", timeout=timeout),
        lambda: service.extend(name, timeout),
    ]
    for choose in choices:
        with pytest.raises(InvalidEnvironmentError) as caught:
            choose()
        assert caught.value.field == "timeout"
        assert reason in str(caught.value)
    assert [one.timeout for one in world.store.find_all()] == [MINUTE]


@pytest.mark.parametrize("longest", [90 * MINUTE, NEVER])
def test_timeout_up_to_maximum_is_accepted(world: World, longest: timedelta) -> None:
    """The operator may allow more than an hour."""
    service = world.service(max_timeout=longest)
    created = service.create("shell", timeout=90 * MINUTE)
    assert created.timeout == 90 * MINUTE
    assert service.extend(created.id, longest).timeout == longest
